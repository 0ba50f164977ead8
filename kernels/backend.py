"""The choice of the backend: the fastest that is there for a tensor's device and type.

A backend is a module with four functions:

    dynamic_conv(x, filters, kernel_size, groups, interleaved) -> out
    dynamic_conv_backward(grad, x, filters, kernel_size, groups, interleaved) -> (grad_x, grad_filters)
    dropout_(filters, keys, kernel_size, groups, p)       in place, by the rule of `kernels.dropout`
    dropout(values, keys, p) -> values of any shape, contiguous, by the same rule

Results have the shape and memory format of x and of the filters.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor

from laconvnet.kernels import cpu, cuda, plain


class Backend(Protocol):
    """The four functions; shapes are those of `kernels.plain.taps`, tensors of one call share device and type."""

    def dynamic_conv(self, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
        """v2 Eq. 2: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W)."""
        ...

    def dynamic_conv_backward(
        self, grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
    ) -> tuple[Tensor, Tensor]:
        """The gradients of x (B, C, H, W) and filters (B, k*k*g, H, W), from that of the output, (B, C, H, W)."""
        ...

    def dropout_(self, filters: Tensor, keys: Tensor, kernel_size: int, groups: int, p: float) -> None:
        """Drops values of filters (B, k*k*g, H, W) in place; keys (B,) int64 on the same device, one an image."""
        ...

    def dropout(self, values: Tensor, keys: Tensor, p: float) -> Tensor:
        """`values` (B, ...) with some dropped, contiguous; keys (B,) int64 on the same device, one an image."""
        ...


PLAIN = cast(Backend, plain)


def backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """The backend for tensors of this device and type: compiled kernels where they can be had, else plain PyTorch."""
    if device.type == "cuda":
        return cuda.ready(device) or PLAIN
    if dtype == torch.float64:
        return PLAIN
    return cast(Backend, cpu.ready() or PLAIN)


def computing_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type that filters and images of a chunk are held in: half types have no fast arithmetic on a CPU."""
    return torch.float32 if device.type == "cpu" and dtype != torch.float64 else dtype
