"""The CUDA kernels of batch norm on a CPU: the very source under the emulation, against float64."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from laconvnet.kernels.cuda.batch_norm import NormArguments
from tests.kernels.compiled import emulated
from tests.kernels.cuda_emulated import GUARD, Poisoned
from tests.kernels.norms import EPS, Found, Given, exactly, given

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Poisoned:
    folder = tmp_path_factory.mktemp("norm")
    return Poisoned(emulated(folder, lambda unit: unit.source.startswith("norm/") or unit.name == "dropout"))


def amid_nan(values: Tensor, further: int = 0) -> Tensor:
    """The same values in the same layout, `further` numbers behind an aligned address, with NaN before and behind."""
    room = torch.full((values.numel() + 2 * GUARD,), torch.nan, dtype=values.dtype)
    last = values.movedim(1, -1) if values.dim() > 1 else values
    begin = GUARD + further
    inner = room[begin : begin + values.numel()].view(last.shape).copy_(last)
    return inner.movedim(-1, 1) if values.dim() > 1 else inner


def guarded(these: Given, further: int = 0) -> Given:
    return these.changed(lambda t: amid_nan(t, further), amid_nan)


def every_pass(kernels: Any, these: Given) -> Found:
    """The four passes as `pipeline.model.joint_norm` runs them, alone in the world."""
    x, relu, slope, channels = these.x, these.relu, these.slope, these.x.shape[1]
    own = kernels.norm_statistics(x)
    vectors = (own[:channels], own[channels:-1], these.weight, these.bias)
    out = kernels.norm_apply(x, these.beside, *vectors, EPS, relu, slope)
    by_result = relu and these.beside is not None
    result = out if by_result else None
    sums, masked = kernels.norm_backward_reduce(these.grad, x, result, *vectors, EPS, relu, slope)
    assert masked.shape == (x.shape if by_result else (0,))
    above = masked if by_result else these.grad
    grad_x = kernels.norm_backward_apply(above, x, *vectors, sums, own[-1:], EPS, relu and not by_result, slope)
    return Found(own, out, sums, None if these.beside is None else above, grad_x)


def agree(found: Tensor, exact: Tensor, rounding: float, tail: Tensor | None = None) -> None:
    """Within `rounding` of the largest and half a unit of the map's type; where `tail` holds, anything."""
    allowed = exact.abs() * torch.finfo(found.dtype).eps / 2 + rounding * exact.abs().max().clamp_min(1.0)
    wrong = ~((found.double() - exact).abs() <= allowed)
    wrong = wrong if tail is None else wrong & ~tail
    assert not wrong.any(), f"{(found.double() - exact).abs()[wrong].max()} in {int(wrong.sum())} places"


def compare(found: Found, these: Given, twice: float = 0.0) -> None:
    """`twice`: a unit of the map's type, where the output is rounded before the sum as well."""
    exact = exactly(these)
    values = these.x.numel() / these.x.shape[1]
    # Where the ReLU's input is rounding's breadth from zero, its gradient may be on or off.
    before = exactly(replace(these, relu=False)).out.abs()
    near = (before < 1e-4 + twice * before.max()) & torch.tensor(these.relu)
    assert near.double().mean() < 1e-3 + 10 * twice
    agree(found.statistics[:-1], exact.statistics[:-1], 1e-6)
    assert found.statistics[-1] == values
    agree(found.out, exact.out, 2e-6 + twice)
    flips = float(near.sum()) * float(these.grad.double().abs().max()) * 4
    agree(found.sums, exact.sums, 2e-6 * values**0.5 + flips)
    agree(found.grad_x, exact.grad_x, 4e-6 + flips / values, near)
    if found.grad_beside is not None:
        assert exact.grad_beside is not None
        agree(found.grad_beside, exact.grad_beside, 0.0, near)


SHAPES = [  # what of the kernels each is for, with vectors of 8 numbers
    (2, 8, 9, 7),  # one column, 128 lines
    (3, 64, 5, 7),  # eight columns
    (2, 24, 7, 5),  # three columns: threads without one
    (1, 136, 5, 6),  # two bands of nine columns, the last with eight
    (2, 640, 3, 5),  # five bands
    (2, 12, 5, 3),  # vectors in float32, number by number in half types
    (5, 1, 11, 3),
    (2, 3, 7, 5),
    (2, 37, 3, 3),  # three bands of single numbers
    (2, 8, 1, 1),  # fewer rows than lines
]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_pass(kernels: Poisoned, shape: tuple[int, ...], dtype: torch.dtype, with_sum: bool, relu: bool) -> None:
    these = guarded(given(shape, dtype, with_sum, relu))
    found = every_pass(kernels, these)
    compare(found, these)
    assert kernels.guards[0].isnan().all()
    for each in (found.out, found.grad_x):
        assert each.dtype == dtype
        assert each.stride() == torch.empty_like(these.x).stride()


@pytest.mark.parametrize("with_sum", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_slope_below_zero(kernels: Poisoned, dtype: torch.dtype, with_sum: bool) -> None:
    """The gradient of what is added is rounded where it is multiplied."""
    these = guarded(replace(given((3, 24, 5, 7), dtype, with_sum, True), slope=0.25))
    found, exact = every_pass(kernels, these), exactly(these)
    assert (found.out < 0).any()
    compare(found, these)
    assert not torch.equal(exact.grad_x, exactly(replace(these, slope=0.0)).grad_x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [16, 1])
def test_many_slices(kernels: Poisoned, channels: int, dtype: torch.dtype) -> None:
    """More rows than slices: each thread takes full rounds and a rest, the last slice is shorter."""
    rows = 528 * (128 if channels == 1 else 64) + 77
    these = given((rows, channels, 1, 1), dtype, True, True)
    compare(every_pass(kernels, these), these)
    assert kernels.guards[0].isnan().all()


def test_several_rounds_of_a_thread(kernels: Poisoned) -> None:
    """A slice of many rows: 5 rounds of four rows and a rest of three in most lines."""
    these = given((8 * 528 * 23 // 40 + 5, 128, 5, 1), torch.bfloat16, False, True)
    compare(every_pass(kernels, these), these)


@pytest.mark.parametrize("dtype", DTYPES)
def test_addresses_that_are_not_aligned(kernels: Poisoned, dtype: torch.dtype) -> None:
    """A view may begin anywhere: then number by number, with the same answers."""
    these = given((2, 16, 5, 3), dtype, True, True)
    moved = guarded(these, 1)
    assert moved.x.data_ptr() % 16
    compare(every_pass(kernels, moved), these)


@pytest.mark.parametrize("layout", ["channels first", "every second column", "expanded", "rows", "three"])
def test_other_layouts(kernels: Poisoned, layout: str) -> None:
    made = given((3, 16, 4, 6), torch.float32, True, True)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "channels first": lambda t: t.contiguous(),
        "every second column": lambda t: t[..., ::2],
        "expanded": lambda t: t[:1].expand(3, -1, -1, -1),
        "rows": lambda t: t[:, :, 0, 0],
        "three": lambda t: t[:, :, 0].mT.contiguous().mT,
    }
    these = made.changed(changes[layout])
    found = every_pass(kernels, these)
    compare(found, these)
    for each in (found.out, found.grad_x, found.grad_beside):
        assert each is not None
        assert each.stride() == torch.empty_like(these.x).stride()


def test_a_mean_that_is_large_against_the_spread(kernels: Poisoned) -> None:
    """Sums of squares would lose all of it in float32."""
    x = given((4, 16, 13, 9), torch.float32, False, False).x * 0.1 + 3000.0
    own = kernels.norm_statistics(x)
    exact = x.double().permute(1, 0, 2, 3).flatten(1)
    var = exact.var(1, correction=0)
    torch.testing.assert_close(own[:16].double(), exact.mean(1), rtol=1e-7, atol=0)
    lost = exact.float().square().mean(1) - exact.float().mean(1).square()
    assert ((own[16:32] - var).abs() < 1e-2 * (lost - var).abs().mean()).all()
    torch.testing.assert_close(own[16:32].double(), var, rtol=2e-3, atol=0)


@pytest.mark.parametrize(("processes", "channels"), [(1, 5), (3, 1), (7, 3 * 128 + 9)])
def test_statistics_of_several_processes(kernels: Poisoned, processes: int, channels: int) -> None:
    """Those of their maps together; a process without a map adds nothing."""
    maps = [given((1 + 2 * rank, channels, 2, 3), torch.float32, False, False).x + 100 for rank in range(processes)]
    own = [kernels.norm_statistics(x) for x in (*maps, maps[0][:0])]
    every = amid_nan(torch.stack(own).flatten()).view(processes + 1, -1)
    whole = torch.cat(maps).double().transpose(0, 1).flatten(1)
    exact = torch.cat([whole.mean(1), whole.var(1, correction=0), torch.tensor([float(whole.shape[1])])])
    torch.testing.assert_close(kernels.norm_combine(every).double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.ops.laconv.norm_combine(every), kernels.norm_combine(every), rtol=1e-5, atol=0)


def test_the_same_bits_on_every_run(kernels: Poisoned) -> None:
    these = given((4, 24, 9, 9), torch.float32, True, True)
    first, second = (every_pass(kernels, these) for _ in range(2))
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(second, name)), name


def test_no_rows_and_one(kernels: Poisoned) -> None:
    for dtype in DTYPES:
        none = given((0, 16, 3, 3), dtype, True, True)
        found = every_pass(kernels, none)
        assert found.statistics.tolist() == [0.0] * 33
        assert found.sums.tolist() == [0.0] * 32
        assert found.out.shape == found.grad_x.shape == none.x.shape
        one = given((1, 16, 1, 1), dtype, False, False)
        found = every_pass(kernels, one)
        assert torch.equal(found.statistics[:16], one.x.flatten().float())
        assert found.statistics[16:].tolist() == [0.0] * 16 + [1.0]
        agree(found.out.flatten(), one.bias.double(), 1e-6)


def test_what_is_no_number_stays_none(kernels: Poisoned) -> None:
    """The ReLU hands NaN on, forward and backward, as PyTorch's does; other channels know nothing of it."""
    these = given((2, 16, 3, 3), torch.bfloat16, True, True)
    these.x[1, 3, 2, 1] = torch.nan
    found = every_pass(kernels, these)
    assert found.out[:, 3].isnan().all()
    assert found.grad_x[:, 3].isnan().all()
    assert not found.out[:, 4:].isnan().any()
    assert not found.grad_x[:, :3].isnan().any()
    assert found.grad_beside is not None
    assert torch.equal(found.grad_beside[:, 3], these.grad[:, 3])


def test_nothing_is_left_of_minus_infinity(kernels: Poisoned) -> None:
    these = given((1, 16, 2, 2), torch.float32, False, True)
    these.x[0, 5, 0, 1] = -torch.inf
    zero, one = torch.zeros(16), torch.ones(16)
    out = kernels.norm_apply(these.x, None, zero, one, one, zero, EPS, True)
    assert out[0, 5, 0, 1] == 0
    assert not torch.signbit(out[out == 0]).any()


def test_what_does_not_fit_is_named(kernels: Poisoned) -> None:
    x, four = torch.zeros(2, 4, 3, 3), torch.zeros(4)
    channels = (four, four, four, four, EPS, True)
    with pytest.raises(RuntimeError, match=r"norm_statistics: x: .*\(2, 4, 3, 3\) float64 on cpu"):
        kernels.norm_statistics(x.double())
    with pytest.raises(RuntimeError, match=r"norm_combine: every: .*\(2, 4\) float32 on cpu"):
        kernels.norm_combine(x[:, :, 0, 0])
    with pytest.raises(RuntimeError, match=r"norm_apply: beside: .*got \(2, 4, 3\) float32 on cpu"):
        kernels.norm_apply(x, x[..., 0], *channels)
    with pytest.raises(RuntimeError, match=r"backward_reduce: out: .*got \(2, 4, 3, 3\) float16"):
        kernels.norm_backward_reduce(x, x, x.half(), *channels)
    with pytest.raises(RuntimeError, match=r"norm_apply_f32: bias: expected 4 of float32 on cpu, got \(3,\) float32"):
        kernels.norm_apply(x, None, four, four, four, four[:3], EPS, True)
    with pytest.raises(
        RuntimeError, match=r"backward_apply_f32: count: expected 1 of float32 on cpu, got \(1,\) int32"
    ):
        kernels.norm_backward_apply(x, x, *channels[:4], torch.zeros(8), torch.ones(1).int(), EPS, True)


def test_sizes_beyond_the_kernels_are_refused(kernels: Poisoned) -> None:
    for sizes in ({"rows": -1, "channels": 4}, {"rows": 1, "channels": 0}, {"rows": 2**61, "channels": 4}):
        with pytest.raises(RuntimeError, match=rf"rows {sizes['rows']}, channels {sizes['channels']}, .*\(error -1\)"):
            kernels._launch("laconv_norm_apply_f32", NormArguments(**sizes), torch.zeros(1))
    assert kernels._library.laconv_norm_workspace_bf16(ctypes.c_int64(0)) == 0
