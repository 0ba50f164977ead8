"""The backend in plain PyTorch, for every device and type: matrix products for small maps, else a loop over taps."""

from __future__ import annotations

from torch import Tensor

from laconvnet.kernels.dropout import dropout_
from laconvnet.kernels.plain import matmul, taps

__all__ = ["dropout_", "dynamic_conv", "dynamic_conv_backward"]


def dynamic_conv(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
    implementation = matmul if matmul.fits(kernel_size, *x.shape[2:]) else taps
    return implementation.forward(x, filters, kernel_size, groups, interleaved)


def dynamic_conv_backward(
    grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
) -> tuple[Tensor, Tensor]:
    implementation = matmul if matmul.fits(kernel_size, *x.shape[2:]) else taps
    return implementation.backward(grad, x, filters, kernel_size, groups, interleaved)
