"""The passes over a map that lies packed: CUDA kernels under the emulation and PyTorch's operators, against float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from laconvnet.kernels.cuda.batch_norm import NormArguments
from laconvnet.kernels.packed import packed_rows
from laconvnet.kernels.plain import norm_cuda
from laconvnet.kernels.plain.packed import Passes
from tests.kernels import batch_norm_double
from tests.kernels.cuda_emulated import Poisoned
from tests.kernels.norms import EPS
from tests.kernels.test_cuda_norm import agree, amid_nan, kernels

__all__ = ["kernels"]  # the fixture

HALF_UNIT = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
Sizes = tuple[int, int, int, int, int]  # images, channels, cells down and across, their side


@dataclass
class Given:
    """packed (B, s*s*M, h, w), grad (B, M, h*s, w*s), both channels last; weight and bias (M,)."""

    packed: Tensor
    grad: Tensor
    weight: Tensor
    bias: Tensor
    packing: int


@dataclass
class Found:
    """Statistics (2 M + 1), the condition, sums (2 M): gradients of bias and weight; the gradient of packed."""

    statistics: Tensor
    condition: Tensor
    sums: Tensor
    grad_packed: Tensor


def given(sizes: Sizes, dtype: torch.dtype) -> Given:
    batch, channels, height, width, side = sizes
    some = torch.Generator().manual_seed(sum(sizes))
    spread = 1 + torch.arange(channels) % 3
    rows = torch.randn(batch, height, width, side * side, channels, generator=some) * spread + 0.3
    packed = rows.flatten(3).permute(0, 3, 1, 2).to(dtype)
    grad = torch.randn(batch, height * side, width * side, channels, generator=some).permute(0, 3, 1, 2).to(dtype)
    weight, bias = (torch.randn(channels, generator=some) for _ in range(2))
    return Given(packed, grad, weight, bias, side)


def unpacked(packed: Tensor, side: int) -> Tensor:
    """(B, s*s*M, h, w) -> (B, M, h*s, w*s)."""
    apart: Tensor = packed.unflatten(1, (side, side, -1))
    return apart.permute(0, 3, 4, 1, 5, 2).flatten(4).flatten(2, 3)


def exactly(these: Given) -> Found:
    """In float64, the gradients by autograd."""
    packed, weight, bias = (t.double().requires_grad_() for t in (these.packed, these.weight, these.bias))
    plain = unpacked(packed, these.packing).relu()
    mean = plain.mean((0, 2, 3))
    var = (plain - mean.view(-1, 1, 1)).square().mean((0, 2, 3))
    normed = (plain - mean.view(-1, 1, 1)) / (var + EPS).sqrt().view(-1, 1, 1) * weight.view(-1, 1, 1)
    out = (normed + bias.view(-1, 1, 1)).relu()
    grads = torch.autograd.grad(out, (packed, bias, weight), these.grad.double())
    statistics = torch.cat([mean, var, mean.new_tensor([plain[:, 0].numel()])]).detach()
    return Found(statistics, out.detach(), torch.cat(grads[1:]), grads[0])


def every_pass(passes: Any, these: Given) -> Found:
    """As `pipeline.model.packed_condition` runs them, alone in the world."""
    channels = len(these.weight)
    own = passes.norm_statistics(packed_rows(these.packed, channels), True)
    vectors = (own[:channels], own[channels:-1], these.weight, these.bias)
    sizes = (EPS, these.packing)
    condition = passes.unpack(these.packed, *vectors, *sizes)
    sums = passes.unpack_backward_reduce(these.grad, these.packed, *vectors, *sizes)
    grad_packed = passes.unpack_backward_apply(these.grad, these.packed, *vectors, sums, own[-1:], *sizes)
    return Found(own, condition, sums, grad_packed)


def compare(found: Found, these: Given) -> None:
    exact, values = exactly(these), found.condition.numel() / len(these.weight)
    agree(found.statistics, exact.statistics, 1e-6)
    agree(found.condition, exact.condition, 4e-6)
    agree(found.sums, exact.sums, 4e-6 * values**0.5)
    agree(found.grad_packed, exact.grad_packed, 8e-6)


class ByOperators:
    """As the dispatcher has them, in the place of the compiled kernels."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.laconv, name)


class ByTorch:
    """PyTorch's CUDA kernels, by a double, in the place of the compiled ones."""

    def __getattr__(self, name: str) -> Any:
        return norm_cuda.statistics if name == "norm_statistics" else getattr(Passes(norm_cuda), name)


SHAPES: list[Sizes] = [  # what of the kernels each is for, with vectors of 8 numbers
    (2, 64, 2, 3, 8),  # stage 1
    (2, 24, 3, 5, 2),  # three columns: threads without one
    (1, 136, 2, 3, 2),  # two bands of nine columns, the last with eight
    (2, 16, 2, 2, 3),
    (3, 8, 3, 1, 4),  # one cell across
    (2, 256, 3, 2, 1),  # nothing to unpack
    (2, 12, 3, 2, 2),  # vectors in float32, number by number in half types
    (1, 3, 5, 7, 5),
]


@pytest.mark.parametrize("dtype", HALF_UNIT)
@pytest.mark.parametrize("sizes", SHAPES)
def test_kernels(kernels: Poisoned, sizes: Sizes, dtype: torch.dtype) -> None:
    these = given(sizes, dtype)
    packed, grad, weight, bias = map(amid_nan, (these.packed, these.grad, these.weight, these.bias))
    guarded = Given(packed, grad, weight, bias, these.packing)
    found = every_pass(kernels, guarded)
    compare(found, these)
    assert kernels.guards[0].isnan().all()
    assert found.condition.dtype == found.grad_packed.dtype == dtype
    assert found.condition.is_contiguous(memory_format=torch.channels_last)
    assert found.grad_packed.stride() == torch.empty_like(these.packed).stride()


@pytest.mark.parametrize("passes", [ByOperators(), ByTorch()])
@pytest.mark.parametrize("dtype", HALF_UNIT)
@pytest.mark.parametrize("sizes", [SHAPES[1], SHAPES[3], SHAPES[5]])
def test_by_pytorch(passes: Any, sizes: Sizes, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in vars(batch_norm_double).items():
        if name.startswith("batch_norm_") and isinstance(passes, ByTorch):
            monkeypatch.setattr(torch, name, function)
    these = given(sizes, dtype)
    found = every_pass(passes, these)
    compare(found, these)
    assert found.condition.dtype == found.grad_packed.dtype == dtype
    assert found.condition.is_contiguous(memory_format=torch.channels_last)


def test_where_a_pixel_lies() -> None:
    """Channel m of pixel (i, j) of a cell is channel (i*s + j) * M + m of the packed map."""
    these = given((1, 5, 2, 3, 4), torch.float32)
    neutral = (torch.zeros(5), torch.ones(5), torch.ones(5), torch.zeros(5))
    found = torch.ops.laconv.unpack(these.packed, *neutral, 0.0, 4)
    for y in range(8):
        for x in range(12):
            first = (y % 4 * 4 + x % 4) * 5
            assert torch.equal(found[0, :, y, x], these.packed[0, first : first + 5, y // 4, x // 4].relu())
    assert torch.equal(found, unpacked(these.packed, 4).relu())


def test_slices_that_begin_amid_a_row_of_cells(kernels: Poisoned) -> None:
    """More rows than slices times lines, cells of 5 x 5: hardly a slice begins with a cell."""
    these = given((2, 8, 37, 41, 5), torch.float32)
    compare(every_pass(kernels, these), these)


@pytest.mark.parametrize("dtype", HALF_UNIT)
def test_addresses_and_layouts(kernels: Poisoned, dtype: torch.dtype) -> None:
    """Views may begin anywhere, and lie channels first."""
    these = given(SHAPES[1], dtype)
    moved = Given(amid_nan(these.packed, 1), amid_nan(these.grad, 1), these.weight, these.bias, these.packing)
    assert moved.packed.data_ptr() % 16
    compare(every_pass(kernels, moved), these)
    first = Given(these.packed.contiguous(), these.grad.contiguous(), these.weight, these.bias, these.packing)
    found = every_pass(kernels, first)
    compare(found, these)
    assert found.grad_packed.is_contiguous()


def test_the_same_bits_on_every_run(kernels: Poisoned) -> None:
    these = given(SHAPES[0], torch.bfloat16)
    first, second = (every_pass(kernels, these) for _ in range(2))
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(second, name)), name


@pytest.mark.parametrize("compiled", [True, False])
def test_no_image(kernels: Poisoned, compiled: bool) -> None:
    found = every_pass(kernels if compiled else ByOperators(), given((0, 16, 2, 3, 4), torch.bfloat16))
    assert found.statistics.tolist() == [0.0] * 33
    assert found.sums.tolist() == [0.0] * 32
    assert found.condition.shape == (0, 16, 8, 12)
    assert found.grad_packed.shape == (0, 256, 2, 3)


@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_no_number_stays_none(kernels: Poisoned, compiled: bool) -> None:
    """Both ReLUs hand NaN on, forward and backward, as PyTorch's does; other channels know nothing of it."""
    these = given((2, 16, 2, 3, 2), torch.bfloat16)
    these.packed[1, 16 + 3, 1, 2] = torch.nan  # channel 3 of pixel (0, 1) of a cell
    found = every_pass(kernels if compiled else ByOperators(), these)
    assert found.condition[:, 3].isnan().all()
    assert not found.condition[:, 4:].isnan().any()
    gradient = found.grad_packed.unflatten(1, (4, 16))
    assert gradient[1, 1, 3, 1, 2].isnan()
    assert not gradient[:, :, 4:].isnan().any()


def test_what_does_not_fit_is_named(kernels: Poisoned) -> None:
    these = given((2, 4, 3, 2, 2), torch.float32)
    four = torch.zeros(4)
    channels = (four, four, four, four)
    with pytest.raises(RuntimeError, match=r"norm_apply_f32: packed: expected \(B, 36, h, w\).*got \(2, 16, 3, 2\)"):
        kernels.unpack(these.packed, *channels, EPS, 3)
    with pytest.raises(RuntimeError, match=r"backward_reduce_f32: grad: expected \(2, 4, 6, 4\).*got \(2, 4, 6, 3\)"):
        kernels.unpack_backward_reduce(these.grad[..., 1:], these.packed, *channels, EPS, 2)
    with pytest.raises(RuntimeError, match=r"apply_f32: bias: expected 4 of float32 on cpu, got \(3,\)"):
        kernels.unpack(these.packed, four, four, four, four[:3], EPS, 2)
    for wrong in (
        {"rows": 23},
        {"cells": 0},
        {"cells": 2**31},
        {"packing": -1},
        {"relu": 0},
        {"beside": 16},
        {"out": 16},
    ):
        sizes = {"rows": 24, "channels": 4, "packing": 2, "cells": 2, "relu": 1} | wrong
        with pytest.raises(RuntimeError, match=r"\(error -1\)"):
            kernels._launch("laconv_norm_apply_f32", NormArguments(**sizes), torch.zeros(1))


def calls(dtype: torch.dtype) -> dict[str, tuple[Any, ...]]:
    """What each operator may be called with."""
    these = given((2, 6, 3, 2, 2), dtype)
    norm = (torch.rand(6), torch.rand(6), these.weight, these.bias)
    x, weight, bias = torch.randn(2, 4, 6, 4).to(dtype), torch.randn(18, 6).to(dtype), torch.randn(18).to(dtype)
    sums, count = torch.ones(12), torch.tensor(48.0)
    return {
        "norm_statistics": (packed_rows(these.packed, 6), True),
        "unpack": (these.packed, *norm, EPS, 2),
        "unpack_backward_reduce": (these.grad, these.packed, *norm, EPS, 2),
        "unpack_backward_apply": (these.grad, these.packed, *norm, sums, count, EPS, 2),
        "laconv_packed": (x, these.packed, *norm, EPS, 2, weight, bias, 3, 2, 0.5, torch.arange(2), False),
    }


@pytest.mark.parametrize("name", sorted(calls(torch.float32)))
def test_contracts_of_pytorch(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        torch.library.opcheck(getattr(torch.ops.laconv, name).default, calls(dtype)[name])


def test_shapes_without_data() -> None:
    for change in (lambda t: t, torch.Tensor.contiguous):
        for name, call in calls(torch.bfloat16).items():
            changed = [change(one) if isinstance(one, Tensor) and one.dim() == 4 else one for one in call]
            real = getattr(torch.ops.laconv, name)(*changed)
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                fakes = [mode.from_tensor(one) if isinstance(one, Tensor) else one for one in changed]
                fake = getattr(torch.ops.laconv, name)(*fakes)
            assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride()), name


def test_laconv_of_a_packed_map_is_laconv_of_the_condition() -> None:
    x, *packed_norm = calls(torch.float32)["laconv_packed"]
    norm, recipe = packed_norm[:7], packed_norm[7:]
    wanted = torch.ops.laconv.laconv(x, torch.ops.laconv.unpack(*norm), *recipe)
    assert torch.equal(torch.ops.laconv.laconv_packed(x, *norm, *recipe), wanted)
