"""The CUDA kernels of the MLP on a CPU: the very source under the emulation, against float64."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.compiled import emulated
from tests.kernels.cuda_emulated import GUARD, Poisoned
from tests.kernels.mlps import EPS, Given, errors, every_pass, exactly, given

DTYPES = (torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Poisoned:
    folder = tmp_path_factory.mktemp("mlp")
    return Poisoned(emulated(folder, lambda unit: unit.source.startswith("mlp/") or unit.name == "dropout"))


def amid_nan(values: Tensor) -> Tensor:
    """The same values in the same layout with NaN before and behind."""
    room = torch.full((values.numel() + 2 * GUARD,), torch.nan, dtype=values.dtype)
    last = values.movedim(1, -1) if values.dim() == 4 else values
    inner = room[GUARD : GUARD + values.numel()].view(last.shape).copy_(last)
    return inner.movedim(-1, 1) if values.dim() == 4 else inner


def bounds(dtype: torch.dtype) -> dict[str, float]:
    """Of the largest value: half a unit where a result is rounded, sums over pixels of products of rounded numbers."""
    unit = torch.finfo(dtype).eps
    sums = dict.fromkeys(("of_w1", "of_w2", "of_weight", "of_bias"), unit)
    return {"mean": 1e-6, "var": 3e-6, "out": unit, "of_y": 2 * unit} | sums


def compare(kernels: Any, these: Given) -> None:
    found, exact = errors(every_pass(kernels, these), exactly(these)), bounds(these.y.dtype)
    assert {name: error for name, error in found.items() if error > exact[name]} == {}


SHAPES = [
    (1, 16, 4, 4),  # 16 pixels, as many as a warp takes
    (2, 16, 5, 7),  # the last 16 are not whole
    (3, 16, 13, 11),  # several blocks
    (1, 16, 3, 3),
    (1, 64, 8, 8),  # 64 pixels, as many as are summed at a time
    (3, 64, 9, 7),  # two blocks, the second not whole
    (1, 64, 3, 5),
    (1, 128, 8, 8),
    (2, 128, 9, 8),
    (1, 128, 3, 5),
    (1, 256, 5, 7),  # two blocks, the second not whole
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_pass(kernels: Poisoned, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    compare(kernels, given(shape, dtype).changed(amid_nan))
    assert kernels.guards[0].isnan().all()


def test_several_rounds_of_a_block(kernels: Poisoned) -> None:
    """More pixels than all blocks take at a time: 264 blocks of 64, three in a launch that only walks."""
    compare(kernels, given((1, 16, 131, 131), torch.bfloat16))


def test_without_what_is_added(kernels: Any) -> None:
    for channels in (16, 64):
        these = given((2, channels, 5, 3), torch.bfloat16)
        without, zero = replace(these, beside=None), replace(these, beside=torch.zeros_like(these.y))
        assert torch.equal(every_pass(kernels, without).of_y, every_pass(kernels, zero).of_y)


def test_the_same_bits_on_every_run(kernels: Poisoned) -> None:
    for channels in (16, 64):
        these = given((3, channels, 9, 7), torch.bfloat16)
        first, second = (vars(every_pass(kernels, these)) for _ in range(2))
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_no_pixels(kernels: Any) -> None:
    for channels in (16, 64, 128):
        found = every_pass(kernels, given((0, channels, 4, 4), torch.bfloat16))
        assert found.out.shape == found.of_y.shape == (0, channels, 4, 4)
        assert not found.mean.any() | found.var.any()
        assert not found.of_w2.any() | found.of_bias.any()


def test_what_is_no_number_stays_none(kernels: Any) -> None:
    """In its own pixel forward; statistics, which it spoils, are those without it."""
    these = given((2, 16, 4, 5), torch.bfloat16)
    _, own = kernels.mlp_statistics(these.y, these.w1)
    channels = (own[:64], own[64:-1], these.weight, these.bias)
    these.y[1, 3, 2, 1] = torch.nan
    out = kernels.mlp_forward(these.y, these.w1, these.w2, *channels, EPS)
    assert out[1, :, 2, 1].isnan().all()
    assert int(out.isnan().sum()) == 16
    _, spoilt = kernels.mlp_statistics(these.y, these.w1)
    assert spoilt[:-1].isnan().all()


def test_views_and_other_layouts_are_laid_out(kernels: Poisoned) -> None:
    these = given((2, 64, 4, 5), torch.bfloat16)

    def further(t: Tensor) -> Tensor:
        return torch.empty(t.numel() + 1, dtype=t.dtype)[1:].view(t.shape).copy_(t)

    moved = these.changed(further, "y", "grad", "w1")
    assert moved.y.data_ptr() % 16
    assert moved.y.is_contiguous()
    first, second = (vars(every_pass(kernels, each)) for each in (these, moved))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_device_without_room_is_left_to_others(kernels: Any) -> None:
    """99 KB, as some chips have: forward there is room, for the sums of the gradients there is none."""
    these = given((1, 64, 4, 4), torch.bfloat16)
    _, own = kernels.mlp_statistics(these.y, these.w1)
    call = (these.y, these.w1, these.w2, own[:256], own[256:-1], these.weight, these.bias, EPS)
    kernels._library.laconv_emulation_device(132, 99 * 1024)
    try:
        assert kernels.mlp_forward(*call) is not None
        assert kernels.mlp_backward_reduce(these.grad, *call) is None
    finally:
        kernels._library.laconv_emulation_device(132, 227 * 1024)


def test_no_bytes_of_the_hidden_map(kernels: Any) -> None:
    """Forward reads y and the matrices, and writes the result; the widest of maps, four times y, is nowhere."""
    for channels in (16, 64):
        these = given((1, channels, 16, 16), torch.bfloat16)
        _, own = kernels.mlp_statistics(these.y, these.w1)
        hidden = 4 * channels
        statistics = (own[:hidden].clone(), own[hidden:-1].clone(), these.weight, these.bias)
        kernels._library.laconv_emulation_count()
        kernels.mlp_forward(these.y, these.w1, these.w2, *statistics, EPS)
        counted = (ctypes.c_int64 * 4)()
        kernels._library.laconv_emulation_counted(counted)
        size = 2 * these.y.numel()
        assert counted[1] == size
        assert size <= counted[0] <= size + 3 * 2 * 2 * these.w1.numel() + 3 * 16 * hidden  # matrices a block


def test_what_does_not_fit_is_named(kernels: Poisoned) -> None:
    these = given((1, 16, 4, 4), torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"mlp_statistics: y: .*C of 16, 64, 128, 256, got \(1, 8, 4, 4\) bfloat16"):
        kernels.mlp_statistics(these.y[:, :8], these.w1)
    with pytest.raises(RuntimeError, match=r"mlp_statistics: w1: expected \(64, 16\) .* got \(16, 64\)"):
        kernels.mlp_statistics(these.y, these.w2)
    vectors = (these.weight,) * 4
    with pytest.raises(RuntimeError, match=r"mlp_backward_reduce: grad: expected \(1, 16, 4, 4\)"):
        kernels.mlp_backward_reduce(these.grad[..., 1:], these.y, these.w1, these.w2, *vectors, EPS)
    with pytest.raises(RuntimeError, match=r"mlp_forward_bf16: var: expected 64 of float32"):
        kernels.mlp_forward(these.y, these.w1, these.w2, these.weight, these.bias[1:], these.weight, these.bias, EPS)
