"""The tensors of a dynamic convolution in a row, as the tests hand them on."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Shape = tuple[int, int, int, int, int, int]  # B, C, H, W, k, g
Three = tuple[Tensor, Tensor, Tensor]  # grad (B, C, H, W), x (B, C, H, W), filters (B, k*k*g, H, W)


def each(change: Callable[[Tensor], Tensor], tensors: Three) -> Three:
    """The three, each of them changed."""
    grad, x, filters = tensors
    return change(grad), change(x), change(filters)
