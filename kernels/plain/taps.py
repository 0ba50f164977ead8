"""Dynamic convolution in plain PyTorch: a loop over taps that keeps nothing but its inputs (v2 Eq. 2).

Shape legend: B batch, C channels, g groups, n = C/g channels a group, H x W pixels, k kernel size, taps t = row * k +
column.
    x        (B, C, H, W)
    filters  (B, k*k*g, H, W), tap-major: channel t*g + group
    out      (B, C, H, W);  out[p, ch] = sum_t filters[p, t, group(ch)] * x[p + offset(t), ch], zero outside the image

Half-precision inputs are accumulated in float32; results take the memory format of their input. A tap only touches the
pixels whose neighbour lies inside the image, so nothing is padded and taps that reach outside of a small map cost
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

Window = tuple[slice, slice]


def taps(kernel_size: int, height: int, width: int) -> Iterator[tuple[int, Window, Window]]:
    """Every tap that meets the image: its index, the output pixels it serves and the input pixels it reads."""
    reach = kernel_size // 2
    for row in range(kernel_size):
        for column in range(kernel_size):
            down, right = row - reach, column - reach
            if abs(down) >= height or abs(right) >= width:
                continue
            here = (slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right)))
            there = (slice(max(0, down), height - max(0, -down)), slice(max(0, right), width - max(0, -right)))
            yield row * kernel_size + column, here, there


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that sums of values of this type are held in: float64 for itself, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def split_groups(x: Tensor, groups: int, interleaved: bool) -> Tensor:
    """(B, C, H, W) -> (B, g, n, H, W), or (B, n, g, H, W) where a channel's group is its index modulo g."""
    batch, channels, height, width = x.shape
    per_group = channels // groups
    return x.view(batch, *((per_group, groups) if interleaved else (groups, per_group)), height, width)


def split_taps(filters: Tensor, groups: int) -> Tensor:
    """(B, k*k*g, H, W) -> (B, k*k, g, H, W), the pixels of a row contiguous."""
    planes = filters if filters.stride(3) == 1 or filters.shape[3] == 1 else filters.contiguous()
    by_tap: Tensor = planes.unflatten(1, (-1, groups))
    return by_tap


def shaped_like(result: Tensor, like: Tensor) -> Tensor:
    """A contiguous `result`, of as many values, in shape, type and memory format of `like`."""
    result = result.view(like.shape)
    return result if result.dtype == like.dtype and like.is_contiguous() else torch.empty_like(like).copy_(result)


def forward(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
    """v2 Eq. 2: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W)."""
    height, width = x.shape[2:]
    dtype = accumulation_dtype(x.dtype)
    shared = 1 if interleaved else 2
    source = split_groups(x.contiguous().to(dtype), groups, interleaved)
    by_tap = split_taps(filters, groups)
    out = torch.zeros_like(source)
    for tap, here, there in taps(kernel_size, height, width):
        weight = by_tap[(slice(None), tap, slice(None), *here)].unsqueeze(shared).to(dtype)
        out[(..., *here)].addcmul_(source[(..., *there)], weight)
    return shaped_like(out, x)


def backward(
    grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x (B, C, H, W) and filters (B, k*k*g, H, W), from that of the output, (B, C, H, W)."""
    sizes = (kernel_size, groups, interleaved)
    return grad_x(grad, filters, *sizes, x), grad_filters(grad, x, *sizes, filters)


def grad_x(
    grad: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool, like: Tensor | None = None
) -> Tensor:
    """The first of the two, (B, C, H, W) in the memory format of `like`, else of `grad`."""
    shared = 1 if interleaved else 2
    above = split_groups(grad.contiguous().to(accumulation_dtype(grad.dtype)), groups, interleaved)
    by_tap = split_taps(filters, groups)
    found = torch.zeros_like(above)
    for tap, here, there in taps(kernel_size, *grad.shape[2:]):
        weight = by_tap[(slice(None), tap, slice(None), *here)].unsqueeze(shared).to(above.dtype)
        found[(..., *there)].addcmul_(above[(..., *here)], weight)
    return shaped_like(found, grad if like is None else like)


def grad_filters(
    grad: Tensor, x: Tensor, kernel_size: int, groups: int, interleaved: bool, like: Tensor | None = None
) -> Tensor:
    """The second, (B, k*k*g, H, W) in the memory format of `like`, else in planes."""
    shared, dtype = 1 if interleaved else 2, accumulation_dtype(x.dtype)
    source = split_groups(x.contiguous().to(dtype), groups, interleaved)
    above = split_groups(grad.contiguous().to(dtype), groups, interleaved)
    found = x.new_zeros(len(x), kernel_size**2, groups, *x.shape[2:])
    for tap, here, there in taps(kernel_size, *x.shape[2:]):
        found[(slice(None), tap, slice(None), *here)] = (above[(..., *here)] * source[(..., *there)]).sum(shared)
    return found.flatten(1, 2) if like is None else shaped_like(found, like)
