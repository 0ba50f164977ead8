"""Filters in padded rows: the order itself, and the CUDA kernels that work on it, under the emulation, against sums in
float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from laconvnet.kernels import dropout
from laconvnet.kernels.cuda import library as cuda_library
from laconvnet.kernels.filter_layout import (
    FilterLayout,
    filters_of_a_pixel,
    from_padded_rows,
    row_length,
    to_padded_rows,
)
from laconvnet.kernels.plain import taps
from tests.kernels.cuda_emulated import OnCpu
from tests.kernels.tensors import Shape, Three, agree, amid_nan, each, one_further, random_inputs

PADDED = FilterLayout.PADDED_ROWS
TYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [  # B, C, H, W, k, g
    (2, 32, 5, 9, 7, 2),  # 16 channels a group, as the network has: 8 of a half at once
    (1, 32, 9, 4, 7, 4),  # a strip that ends with the row
    (2, 12, 4, 6, 3, 3),  # 4 channels a group
    (1, 24, 3, 5, 3, 2),  # 12: 4 at once
    (1, 16, 6, 7, 5, 2),
    (3, 8, 1, 1, 7, 2),  # one pixel
    (1, 4, 1, 13, 7, 1),  # one row
    (2, 8, 11, 1, 5, 1),  # one column
    (2, 8, 23, 18, 3, 2),  # more strips than the grid has threads
]


def padded(filters: Tensor, k: int, g: int) -> Tensor:
    """(b, k*k*g, H, W) -> the same in padded rows, channels last."""
    rows = to_padded_rows(filters.transpose(0, 1), k, g).transpose(0, 1)
    return rows.contiguous(memory_format=torch.channels_last)


def taken_back(rows: Tensor, k: int, g: int) -> Tensor:
    return from_padded_rows(rows.transpose(0, 1), k, g).transpose(0, 1)


def everything(library: OnCpu, tensors: Three, sizes: tuple[int, int, bool]) -> tuple[Tensor, Tensor, Tensor]:
    """The output and both gradients, from filters in padded rows."""
    grad, x, filters = tensors
    out = library.dynamic_conv(x, filters, *sizes, PADDED)
    return out, *library.dynamic_conv_backward(grad, x, filters, *sizes, PADDED)


@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("g", [1, 4])
def test_a_filter_stands_at_group_row_column(k: int, g: int) -> None:
    values = torch.arange(1, k * k * g + 1)[:, None] * torch.tensor([1, -1])
    rows = to_padded_rows(values, k, g)
    assert len(rows) == filters_of_a_pixel(k, g, True) == g * k * row_length(k)
    assert filters_of_a_pixel(k, g, False) == k * k * g
    by_place = rows.view(g, k, row_length(k), 2)
    for group in range(g):
        for tap in range(k * k):
            assert torch.equal(by_place[group, tap // k, tap % k], values[tap * g + group])
    assert not by_place[:, :, k:].any()
    assert torch.equal(from_padded_rows(rows, k, g), values)


def test_a_row_is_a_power_of_two() -> None:
    """What one or two loads of a kernel take; other sizes have no code of their own, and no rows."""
    assert [row_length(k) for k in (1, 3, 5, 7, 9)] == [0, 4, 8, 8, 0]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_gradients(library: OnCpu, shape: Shape, dtype: torch.dtype) -> None:
    grad, x, filters = random_inputs(shape, dtype)
    k, g = shape[4:]
    exact = each(Tensor.double, (grad, x, filters))
    wanted = taps.forward(*exact[1:], k, g, False), *taps.backward(*exact, k, g, False)
    found = everything(library, each(amid_nan, (grad, x, padded(filters, k, g))), (k, g, False))
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in found)
    grad_filters = found[2]
    assert not grad_filters.unflatten(1, (g, k, -1))[:, :, :, k:].any()
    for ours, theirs, terms in zip(
        (*found[:2], taken_back(grad_filters, k, g)), wanted, (k * k, k * k, shape[1] // g), strict=True
    ):
        assert ours.dtype == dtype
        agree(ours, theirs, terms)


@pytest.mark.parametrize("dtype", TYPES)
def test_each_gradient_alone_is_the_same(library: OnCpu, dtype: torch.dtype) -> None:
    grad, x, filters = random_inputs((2, 16, 5, 6, 7, 2), dtype)
    rows = padded(filters, 7, 2)
    both = library.dynamic_conv_backward(grad, x, rows, 7, 2, False, PADDED)
    alone = library.grad_x(grad, rows, 7, 2, False, PADDED), library.grad_filters(grad, x, 7, 2, False, PADDED)
    for one, other in zip(alone, both, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [12, 16])
def test_addresses_that_are_not_aligned(library: OnCpu, dtype: torch.dtype, channels: int) -> None:
    """A view may begin anywhere: then it is copied first."""
    grad, x, filters = random_inputs((1, channels, 3, 5, 3, 1), dtype)
    tensors = each(amid_nan, (grad, x, padded(filters, 3, 1)))
    wanted = everything(library, tensors, (3, 1, False))
    moved = each(one_further, tensors)
    assert moved[1].data_ptr() % 16 == dtype.itemsize
    for ours, theirs in zip(everything(library, moved, (3, 1, False)), wanted, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("change", [amid_nan, one_further, torch.clone])
@pytest.mark.parametrize("layout", [PADDED, FilterLayout.PIXELS])
def test_results_are_written_to_their_place(
    library: OnCpu, change: Callable[[Tensor], Tensor], layout: FilterLayout
) -> None:
    """Also to one that begins anywhere or lies otherwise; nothing around it is touched."""
    grad, x, filters = random_inputs((4, 8, 5, 6, 5, 2), torch.bfloat16)
    by = padded(filters, 5, 2) if layout is PADDED else filters
    out, grad_x = (change(torch.full_like(x, 7.0)) for _ in range(2))
    assert library.dynamic_conv(x[1:3], by[1:3], 5, 2, False, layout, out[1:3]).data_ptr() == out[1:3].data_ptr()
    assert library.grad_x(grad[1:3], by[1:3], 5, 2, False, layout, grad_x[1:3]).data_ptr() == grad_x[1:3].data_ptr()
    for whole, wanted in (
        (out, library.dynamic_conv(x, by, 5, 2, False, layout)),
        (grad_x, library.grad_x(grad, by, 5, 2, False, layout)),
    ):
        assert torch.equal(whole[1:3], wanted[1:3])
        assert (whole[::3] == 7).all()


def test_what_lies_outside_counts_as_zero(library: OnCpu) -> None:
    """Infinite images and gradients beyond a border, or padding that holds no zeros, reach nothing."""
    grad, x, filters = random_inputs((1, 8, 3, 5, 3, 1), torch.float32)
    rows = padded(filters, 3, 1)
    wanted = everything(library, (grad, x, rows), (3, 1, False))
    spoiled = rows.clone()
    spoiled.unflatten(1, (1, 3, 4))[:, :, :, 3:] = torch.nan
    spoiled.unflatten(1, (1, 3, 4))[:, 0, 0, :, 0] = torch.inf  # whole kernel rows beyond the upper border
    for ours, theirs in zip(everything(library, (grad, x, spoiled), (3, 1, False)), wanted, strict=True):
        assert torch.equal(ours, theirs)


def test_nothing_at_all(library: OnCpu) -> None:
    for shape in ((0, 4, 3, 3, 3, 1), (2, 4, 0, 3, 3, 1), (2, 4, 3, 0, 3, 1)):
        grad, x, filters = random_inputs(shape, torch.float32)
        found = everything(library, (grad, x, padded(filters, 3, 1)), (3, 1, False))
        assert [t.shape for t in found] == [x.shape, x.shape, (shape[0], 12, *shape[2:4])]


@pytest.mark.parametrize(
    ("channels", "k", "g", "interleaved", "dtype", "layout"),
    [
        (64, 7, 4, False, torch.bfloat16, PADDED),
        (16, 3, 4, False, torch.float32, PADDED),
        (64, 7, 4, True, torch.bfloat16, FilterLayout.PIXELS),
        (8, 7, 4, False, torch.bfloat16, FilterLayout.PIXELS),  # two channels a group
        (64, 9, 4, False, torch.bfloat16, FilterLayout.PIXELS),
        (64, 7, 4, False, torch.float64, FilterLayout.PIXELS),
    ],
)
def test_padded_rows_are_asked_for_where_there_are_kernels(
    library: OnCpu, channels: int, k: int, g: int, interleaved: bool, dtype: torch.dtype, layout: FilterLayout
) -> None:
    x = torch.ones(1, channels, 2, 2, dtype=dtype)
    assert library.filter_layout(x, k, g, interleaved) is layout
    if layout is not PADDED and row_length(k):
        rows = torch.ones(1, filters_of_a_pixel(k, g, True), 2, 2, dtype=dtype)
        with pytest.raises(RuntimeError, match=r"forward.* on cpu \(.*padded 1\): no padded rows .* \(error -5\)"):
            library.dynamic_conv(x, rows, k, g, interleaved, PADDED)


def test_sizes_that_do_not_fit_are_named(library: OnCpu, monkeypatch: pytest.MonkeyPatch) -> None:
    x, filters = torch.zeros(1, 8, 3, 3), torch.zeros(1, 18, 3, 3)
    with pytest.raises(RuntimeError, match=r"forward: x .* and filters \(1, 18, .* do not fit kernel_size 3, groups 2"):
        library.dynamic_conv(x, filters, 3, 2, False, PADDED)
    monkeypatch.setattr(cuda_library, "LARGEST_PADDED_CHANNELS", 4)
    assert library.filter_layout(x, 3, 2, False) is FilterLayout.PIXELS


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("k", "g"), [(3, 4), (5, 2), (7, 8), (7, 400)])  # the last too wide for shared memory
def test_dropout_of_padded_rows(library: OnCpu, k: int, g: int, dtype: torch.dtype) -> None:
    """The same values of the same taps as in the other order, and zeros that fill rows stay zeros."""
    filters = torch.rand(2, k * k * g, 3, 7).add(0.5).to(dtype)
    keys = torch.tensor([5, -7])
    rows = padded(filters, k, g)
    library.dropout_(rows, keys, k, g, 0.25)
    dropout.dropout_(filters, keys, k, g, 0.25)
    assert torch.equal(taken_back(rows, k, g), filters)
    assert int((rows == 0).sum()) == rows.numel() - int((filters != 0).sum())
