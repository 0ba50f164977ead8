"""The tensors of a dynamic convolution in a row, as the tests hand them on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Shape = tuple[int, int, int, int, int, int]  # B, C, H, W, k, g
Three = tuple[Tensor, Tensor, Tensor]  # grad (B, C, H, W), x (B, C, H, W), filters (B, k*k*g, H, W)


def each(change: Callable[[Tensor], Tensor], tensors: Three) -> Three:
    """The three, each of them changed."""
    grad, x, filters = tensors
    return change(grad), change(x), change(filters)


def amid_nan(values: Tensor) -> Tensor:
    """The same values, channels last, with NaN before and behind: what is read there spoils a result."""
    last = values.permute(0, 2, 3, 1).contiguous()
    room = torch.full((last.numel() + 128,), torch.nan, dtype=values.dtype)
    inner = room[64 : 64 + last.numel()].view(last.shape).copy_(last)
    return inner.permute(0, 3, 1, 2)


def random_inputs(shape: Shape, dtype: torch.dtype) -> Three:
    b, c, h, w, k, g = shape
    torch.manual_seed(h * w + k)
    x, grad = torch.randn(b, c, h, w).to(dtype), torch.randn(b, c, h, w).to(dtype)
    return grad, x, torch.randn(b, k * k * g, h, w).to(dtype)


def agree(found: Tensor, exact: Tensor, terms: int) -> None:
    """Accumulated in float32 and rounded once: the error of a sum of `terms` products, and half a unit of the type."""
    wide = 1e-13 if found.dtype == torch.float64 else 1e-6
    allowed = exact.abs() * torch.finfo(found.dtype).eps / 2 + wide * terms**0.5 * 4
    error = (found.double() - exact).abs()
    assert (error <= allowed).all(), f"{error.max()} at {error.argmax()}"


def one_further(tensor: Tensor) -> Tensor:
    """The same values, channels last, one number behind an aligned address."""
    last = tensor.permute(0, 2, 3, 1)
    room = torch.full((last.numel() + 1,), torch.nan, dtype=tensor.dtype)
    return room[1:].view(last.shape).copy_(last).permute(0, 3, 1, 2)
