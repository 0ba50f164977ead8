"""The authors' way of computing the dynamic convolution, as a backend: only the bench takes it (involution.cuh)."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels import cuda
from kernels.cuda.library import TYPES, ConvArguments, Library, _about, _arguments, _check


def ready(device: torch.device) -> Involution | None:
    """The backend for this device; None where the compiled library is not to be had (`cuda.why_not`)."""
    way = cuda.ready(device)
    return None if way is None else Involution(way.path)


class Involution(Library):
    """One thread an output number, planar memory (NCHW): float32, float16 and bfloat16, sums in float32."""

    def dynamic_conv(self, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
        _check("involution_forward", x, filters, kernel_size, groups)
        source, weights, result = x.contiguous(), filters.contiguous(), _planar(x)
        arguments = _arguments(x, kernel_size, groups, interleaved)
        arguments.x, arguments.filters, arguments.result = (t.data_ptr() for t in (source, weights, result))
        self._involve("forward", arguments, result)
        return _shaped_like(result, x)

    def dynamic_conv_backward(
        self, grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
    ) -> tuple[Tensor, Tensor]:
        _check("involution_backward", x, filters, kernel_size, groups)
        if grad.shape != x.shape or grad.dtype != x.dtype or grad.device != x.device:
            raise RuntimeError(f"involution_backward: grad: expected the like of x, {_about(x)}, got {_about(grad)}")
        above, source, weights = grad.contiguous(), x.contiguous(), filters.contiguous()
        grad_x, grad_filters = _planar(x), _planar(filters)
        arguments = _arguments(x, kernel_size, groups, interleaved)
        arguments.x, arguments.filters, arguments.grad = (t.data_ptr() for t in (source, weights, above))
        arguments.result = grad_x.data_ptr()
        self._involve("grad_x", arguments, grad_x)
        arguments.result = grad_filters.data_ptr()
        self._involve("grad_filters", arguments, grad_filters)
        return _shaped_like(grad_x, x), _shaped_like(grad_filters, filters)

    def _involve(self, what: str, arguments: ConvArguments, result: Tensor) -> None:
        if result.numel():
            self._launch(f"laconv_involution_{what}_{TYPES[result.dtype]}", arguments, result)


def _planar(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _shaped_like(result: Tensor, like: Tensor) -> Tensor:
    return result if like.is_contiguous() else torch.empty_like(like).copy_(result)
