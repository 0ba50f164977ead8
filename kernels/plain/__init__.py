"""The backend in plain PyTorch, for every device and type: matrix products for small maps, else a loop over taps."""

from __future__ import annotations

from torch import Tensor

from laconvnet.kernels.dropout import dropout, dropout_
from laconvnet.kernels.filter_layout import FilterLayout
from laconvnet.kernels.plain import matmul, taps

__all__ = ["dropout", "dropout_", "dynamic_conv", "dynamic_conv_backward", "filter_layout", "grad_filters", "grad_x"]


def filter_layout(x: Tensor, kernel_size: int, groups: int, interleaved: bool) -> FilterLayout:
    """For x (B, C, H, W): what the matrix product that makes filters writes fastest."""
    return FilterLayout.PLANES if x.device.type == "cpu" else FilterLayout.PIXELS


def dynamic_conv(
    x: Tensor,
    filters: Tensor,
    kernel_size: int,
    groups: int,
    interleaved: bool,
    layout: FilterLayout = FilterLayout.PIXELS,
    out: Tensor | None = None,
) -> Tensor:
    """v2 Eq. 2: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W), in `out` if given."""
    forward = matmul.forward if matmul.fits(kernel_size, *x.shape[2:]) else taps.forward
    found = forward(x, filters, kernel_size, groups, interleaved)
    return found if out is None else out.copy_(found)


def dynamic_conv_backward(
    grad: Tensor,
    x: Tensor,
    filters: Tensor,
    kernel_size: int,
    groups: int,
    interleaved: bool,
    layout: FilterLayout = FilterLayout.PIXELS,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The gradients of x (B, C, H, W), in `out` if given, and of filters (B, k*k*g, H, W), from that of the output."""
    backward = matmul.backward if matmul.fits(kernel_size, *x.shape[2:]) else taps.backward
    found, grad_filters = backward(grad, x, filters, kernel_size, groups, interleaved)
    return found if out is None else out.copy_(found), grad_filters


def grad_x(
    grad: Tensor,
    filters: Tensor,
    kernel_size: int,
    groups: int,
    interleaved: bool,
    layout: FilterLayout = FilterLayout.PIXELS,
    out: Tensor | None = None,
) -> Tensor:
    """The gradient of x (B, C, H, W) alone, in the memory format of `grad` or in `out`."""
    to_x = matmul.grad_x if matmul.fits(kernel_size, *grad.shape[2:]) else taps.grad_x
    found = to_x(grad, filters, kernel_size, groups, interleaved)
    return found if out is None else out.copy_(found)


def grad_filters(
    grad: Tensor,
    x: Tensor,
    kernel_size: int,
    groups: int,
    interleaved: bool,
    layout: FilterLayout = FilterLayout.PIXELS,
) -> Tensor:
    """The gradient of the filters (B, k*k*g, H, W) alone."""
    to_filters = matmul.grad_filters if matmul.fits(kernel_size, *x.shape[2:]) else taps.grad_filters
    return to_filters(grad, x, kernel_size, groups, interleaved)
