"""The passes of batch norm in PyTorch, on a CPU and as on a GPU without a compiler, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from laconvnet.kernels import cuda, norm
from laconvnet.kernels.backend import choose
from laconvnet.kernels.plain import norm_cuda
from tests.kernels import batch_norm_double
from tests.kernels.norms import Found, given
from tests.kernels.test_cuda_norm import compare, every_pass

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Operators:
    """The operators as the dispatcher has them, in the place of the compiled kernels."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.laconv, name)


class ByTorch:
    """PyTorch's CUDA kernels, in the place of the compiled ones."""

    def __getattr__(self, name: str) -> Any:
        return getattr(norm_cuda, name.removeprefix("norm_"))


@pytest.fixture(params=[Operators, ByTorch])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param is ByTorch:
        for name, function in vars(batch_norm_double).items():
            if name.startswith("batch_norm_"):
                monkeypatch.setattr(torch, name, function)
    return request.param()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 24, 7, 5), (2, 5, 3, 4), (7, 6)])
def test_every_pass(passes: Any, shape: tuple[int, ...], dtype: torch.dtype, with_sum: bool, relu: bool) -> None:
    these = given((*shape, 1, 1)[:4], dtype, with_sum, relu)
    if len(shape) == 2:
        these = these.changed(lambda t: t[..., 0, 0])
    if dtype == torch.float64:
        these = these.changed(lambda t: t, Tensor.double)
    found = every_pass(passes, these)
    compare(found, these, torch.finfo(dtype).eps if dtype.itemsize == 2 and with_sum else 0.0)
    for each in (found.out, found.grad_x):
        assert each.dtype == dtype
        assert each.shape == these.x.shape
    assert found.statistics.dtype == found.sums.dtype == these.weight.dtype


def test_no_rows(passes: Any) -> None:
    found: Found = every_pass(passes, given((0, 6, 3, 3), torch.float32, True, True))
    assert found.statistics.tolist() == [0.0] * 13
    assert found.sums.tolist() == [0.0] * 12
    assert found.out.shape == found.grad_x.shape == (0, 6, 3, 3)


def arguments(dtype: torch.dtype = torch.float32) -> dict[str, tuple[Any, ...]]:
    """What each operator may be called with, in both ways of the ReLU."""
    these = given((2, 6, 3, 4), dtype, True, True)
    own = torch.ops.laconv.norm_statistics(these.x)
    channels = (own[:6], own[6:12], these.weight, these.bias)
    out = torch.ops.laconv.norm_apply(these.x, these.beside, *channels, 1e-5, True)
    return {
        "norm_statistics": (these.x,),
        "norm_combine": (torch.stack([own, own]),),
        "norm_apply": (these.x, these.beside, *channels, 1e-5, True),
        "norm_apply ": (these.x, None, *channels, 1e-5, False),
        "norm_backward_reduce": (these.grad, these.x, out, *channels, 1e-5, True),
        "norm_backward_reduce ": (these.grad, these.x, None, *channels, 1e-5, True),
        "norm_backward_apply": (these.grad, these.x, *channels, torch.ones(12), own[-1], 1e-5, True),
    }


@pytest.mark.parametrize("name", sorted(arguments()))
def test_contracts_of_pytorch(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        torch.library.opcheck(getattr(torch.ops.laconv, name.strip()).default, arguments(dtype)[name])


def test_shapes_without_data() -> None:
    """Layouts of maps that are not dense are those of torch.empty_like, with data and without."""
    for change in (lambda t: t, torch.Tensor.contiguous, lambda t: t[..., ::2], lambda t: t[:, :, 0, 0]):
        for name, call in arguments().items():
            changed = [change(one) if isinstance(one, Tensor) and one.dim() == 4 else one for one in call]
            real = getattr(torch.ops.laconv, name.strip())(*changed)
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                fakes = [mode.from_tensor(one) if isinstance(one, Tensor) else one for one in changed]
                fake = getattr(torch.ops.laconv, name.strip())(*fakes)
            for ours, theirs in zip(
                *(each if isinstance(each, tuple) else (each,) for each in (fake, real)), strict=True
            ):
                assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_which_kernels_a_gpu_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled ones for their types where they are there and wanted, else PyTorch's; none for float64 is asked."""
    asked: list[torch.device] = []

    class Compiled(cuda.Library):
        def __init__(self) -> None:
            pass

        def norm_statistics(self, x: Tensor, relu_before: bool = False) -> Any:
            return "compiled"

    there: list[Compiled | None] = [Compiled(), None]

    def ready(device: torch.device) -> Compiled | None:
        asked.append(device)
        return there[len(asked) - 1]

    monkeypatch.setattr(cuda, "ready", ready)
    monkeypatch.setattr(norm_cuda, "statistics", lambda x: "by torch")
    run: Callable[[Tensor], object] = norm.on_gpu("norm_statistics", 0, norm_cuda.statistics)
    with FakeTensorMode():
        x = torch.zeros(2, 3, dtype=torch.bfloat16, device="cuda")
        assert [run(x), run(x), run(x.double())] == ["compiled", "by torch", "by torch"]
        assert len(asked) == 2
        choose("plain")
        assert run(x) == "by torch"
        assert len(asked) == 2
