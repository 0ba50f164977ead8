"""The fused backward kernels of k = 7 on a CPU: the very source under the emulation, against sums in float64."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.kernels.plain import taps
from tests.kernels import compilers
from tests.kernels.fused_emulated import Fused, Problem, build, error, problem

HALVES = (torch.float16, torch.bfloat16)
CPP = {torch.float16: ("laconv::half", "f16"), torch.bfloat16: ("laconv::bfloat16", "bf16")}


@pytest.fixture(scope="session")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Fused:
    compilers.gxx()
    folder = tmp_path_factory.mktemp("k7_backward")
    macros = [(f"LACONV_TYPE={spelled}", f"LACONV_TYPE_NAME={name}") for spelled, name in CPP.values()]
    return Fused(*(build("fused/k7_backward.cu", folder, *of_type) for of_type in macros))


def torch_path(given: Problem) -> dict[str, Tensor]:
    """The gradients in the problem's own type: every tensor between operations rounded, every sum in float32."""
    dtype = given.x.dtype
    mask = given.mask() if given.keys is not None else torch.ones(1)
    assert isinstance(mask, Tensor)
    cond = given.cond.permute(0, 2, 3, 1)
    filters = F.linear(cond, given.weight, given.bias).permute(0, 3, 1, 2)
    dropped = (filters.float() * mask.float()).to(dtype)
    wide = (given.grad.float(), given.x.float(), dropped.float())
    grad_x, grad_filters = taps.backward(*wide, given.kernel_size, given.groups, False)
    grad_filters = (grad_filters.to(dtype).float() * mask.float()).to(dtype)
    rows = grad_filters.permute(0, 2, 3, 1).reshape(-1, len(given.weight))
    grad_cond = (rows @ given.weight).reshape(cond.shape).permute(0, 3, 1, 2)
    return {
        "x": grad_x.to(dtype),
        "cond": grad_cond,
        "weight": rows.T @ cond.reshape(-1, cond.shape[-1]),
        "bias": rows.float().sum(0).to(dtype),
    }


@functools.cache
def exact_of(*arguments: object) -> tuple[Problem, dict[str, Tensor], dict[str, Tensor]]:
    """A problem, its exact gradients and those of the path through PyTorch."""
    given = problem(*arguments)  # type: ignore[arg-type]
    exact = dict(zip(("x", "cond", "weight", "bias"), given.gradients(), strict=True))
    return given, exact, torch_path(given)


def near(found: Tensor, exact: Tensor, theirs: Tensor) -> None:
    """Of a few values PyTorch's error may happen to be small: nothing is better than the exact one, rounded."""
    assert error(found, exact) <= 3 * max(error(theirs, exact), error(exact.to(theirs.dtype), exact))


CASES = [  # B, H, W, channels, condition, groups, threshold, bias
    (1, 1, 1, 16, 64, 1, 0, True),
    (2, 3, 5, 32, 64, 2, 26, True),
    (2, 13, 11, 48, 64, 3, 128, False),
    (1, 26, 17, 16, 128, 1, 0, True),
    (1, 7, 53, 64, 128, 4, 26, True),
    (1, 4, 25, 128, 128, 8, 0, False),
    (1, 1, 1, 32, 256, 1, 26, True),
    (2, 3, 5, 64, 256, 2, 0, False),
    (1, 26, 26, 32, 256, 1, 0, True),
    (1, 13, 29, 96, 256, 3, 26, True),
    (1, 7, 53, 32, 256, 1, 128, True),
    (1, 5, 13, 256, 256, 8, 26, True),
]
WIDER = [  # of these grad_x alone
    (2, 3, 5, 32, 512, 1, 0, True),
    (2, 13, 13, 64, 512, 2, 26, False),
    (1, 4, 53, 96, 512, 3, 0, True),
]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", CASES + WIDER)
def test_gradient_of_x(fused: Fused, dtype: torch.dtype, case: tuple[int, ...]) -> None:
    b, h, w, channels, condition, groups, threshold, bias = case
    given, exact, theirs = exact_of(dtype, b, h, w, channels, condition, groups, 7, threshold, bias)
    near(fused.grad_x("k7", given), exact["x"], theirs["x"])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_condition_weight_and_bias(fused: Fused, dtype: torch.dtype, case: tuple[int, ...]) -> None:
    b, h, w, channels, condition, groups, threshold, bias = case
    given, exact, theirs = exact_of(dtype, b, h, w, channels, condition, groups, 7, threshold, bias)
    found = fused.grad_filters("k7", given, fused.workspace_bytes("k7", given))
    for name in ("cond", "weight", "bias"):
        near(found[name], exact[name], theirs[name])
