"""The backend in plain PyTorch, for every device and type: matrix products for small maps, else a loop over taps."""

from __future__ import annotations

from torch import Tensor

from laconvnet.kernels.dropout import dropout, dropout_
from laconvnet.kernels.plain import matmul, taps

__all__ = ["dropout", "dropout_", "dynamic_conv", "dynamic_conv_backward"]


def dynamic_conv(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
    """v2 Eq. 2: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W)."""
    forward = matmul.forward if matmul.fits(kernel_size, *x.shape[2:]) else taps.forward
    return forward(x, filters, kernel_size, groups, interleaved)


def dynamic_conv_backward(
    grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x (B, C, H, W) and filters (B, k*k*g, H, W), from that of the output, (B, C, H, W)."""
    backward = matmul.backward if matmul.fits(kernel_size, *x.shape[2:]) else taps.backward
    return backward(grad, x, filters, kernel_size, groups, interleaved)
