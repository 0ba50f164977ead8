"""The backend in plain PyTorch, for every device and type: matrix products for small maps, else a loop over taps."""

from __future__ import annotations

from torch import Tensor

from kernels import reference, small_maps
from kernels.dropout import dropout_

__all__ = ["dropout_", "dynamic_conv", "dynamic_conv_backward"]


def dynamic_conv(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
    way = small_maps if small_maps.fits(kernel_size, *x.shape[2:]) else reference
    return way.forward(x, filters, kernel_size, groups, interleaved)


def dynamic_conv_backward(
    grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
) -> tuple[Tensor, Tensor]:
    way = small_maps if small_maps.fits(kernel_size, *x.shape[2:]) else reference
    return way.backward(grad, x, filters, kernel_size, groups, interleaved)
