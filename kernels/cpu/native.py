"""The C++ kernel as a backend: float32 on the CPU, images in any layout (shape legend in `kernels.plain.taps`)."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from laconvnet.kernels import dropout as rule
from laconvnet.kernels.cpu import build
from laconvnet.kernels.filter_layout import FilterLayout

_NUMBERS = ctypes.POINTER(ctypes.c_int64)
_BUFFER, _STRIDES = ctypes.c_void_p, _NUMBERS


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernel. Raises BuildError."""
    found = build.library()
    image = (_BUFFER, _STRIDES)
    found.laconv_cpu_forward.argtypes = (_NUMBERS, *image * 3, ctypes.c_int64)
    found.laconv_cpu_backward.argtypes = (_NUMBERS, *image * 5, ctypes.c_int64)
    found.laconv_cpu_use.argtypes, found.laconv_cpu_use.restype = (_BUFFER,), None
    by_rule = (_BUFFER, ctypes.c_uint32, ctypes.c_float, ctypes.c_int64)
    found.laconv_cpu_drop_filters.argtypes = (*image, *(ctypes.c_int64,) * 4, *by_rule)
    found.laconv_cpu_drop_elements.argtypes = (_BUFFER, _BUFFER, *(ctypes.c_int64,) * 2, *by_rule)
    found.laconv_cpu_use(openmp())
    return found


def openmp() -> ctypes.c_void_p | None:
    """The entry of the OpenMP runtime that PyTorch has loaded (all makes know GNU's); None: own threads serve."""
    entry = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return ctypes.cast(entry, ctypes.c_void_p) if entry else None


def filter_layout(x: Tensor, kernel_size: int, groups: int, interleaved: bool) -> FilterLayout:
    """For x (B, C, H, W): planes, along whose rows of pixels the kernels work."""
    return FilterLayout.PLANES


def dynamic_conv(
    x: Tensor,
    filters: Tensor,
    kernel_size: int,
    groups: int,
    interleaved: bool,
    layout: FilterLayout = FilterLayout.PIXELS,
    out: Tensor | None = None,
) -> Tensor:
    """v2 Eq. 2 in float32: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W), in `out` if given.

    Raises BuildError where the kernel cannot be had, MemoryError where it finds no memory.
    """
    filters = _planes(filters)
    out = torch.empty_like(x) if out is None else out
    if out.numel():
        shape = _numbers(*x.shape, kernel_size, groups, int(interleaved))
        _done(library().laconv_cpu_forward(shape, *_map(x), *_map(filters), *_map(out), torch.get_num_threads()))
    return out


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
    """The gradients of x (B, C, H, W), in `out` if given, and of filters (B, k*k*g, H, W), from that of the output.

    Raises as the above.
    """
    planes, to_x = _planes(filters), torch.empty_like(x) if out is None else out
    to_filters = torch.empty_like(planes)
    _backward((kernel_size, groups, int(interleaved)), grad, x, planes, to_x, to_filters)
    return to_x, to_filters if planes is filters else torch.empty_like(filters).copy_(to_filters)


def grad_x(
    grad: Tensor,
    filters: Tensor,
    kernel_size: int,
    groups: int,
    interleaved: bool,
    layout: FilterLayout = FilterLayout.PIXELS,
    out: Tensor | None = None,
) -> Tensor:
    """The gradient of x (B, C, H, W) alone, in the memory format of `grad` or in `out`; raises as the above."""
    to_x = torch.empty_like(grad) if out is None else out
    _backward((kernel_size, groups, int(interleaved)), grad, None, _planes(filters), to_x, None)
    return to_x


def grad_filters(
    grad: Tensor,
    x: Tensor,
    kernel_size: int,
    groups: int,
    interleaved: bool,
    layout: FilterLayout = FilterLayout.PIXELS,
) -> Tensor:
    """The gradient of the filters (B, k*k*g, H, W) alone, in planes; raises as the above."""
    planes = grad.new_empty(kernel_size**2 * groups, len(grad), *grad.shape[2:]).transpose(0, 1)
    _backward((kernel_size, groups, int(interleaved)), grad, x, None, None, planes)
    return planes


def _backward(
    sizes: tuple[int, int, int],
    grad: Tensor,
    x: Tensor | None,
    planes: Tensor | None,
    to_x: Tensor | None,
    to_filters: Tensor | None,
) -> None:
    """Into `to_x`, which needs the filters in planes, and `to_filters`, which needs x, as far as they are there."""
    if grad.numel():
        maps = (part for tensor in (grad, x, planes, to_x, to_filters) for part in _map(tensor))
        _done(library().laconv_cpu_backward(_numbers(*grad.shape, *sizes), *maps, torch.get_num_threads()))
    elif to_filters is not None:
        to_filters.zero_()


def dropout_(filters: Tensor, keys: Tensor, kernel_size: int, groups: int, p: float) -> None:
    """`kernels.dropout.dropout_` of float32 filters (B, k*k*g, H, W), the same mask; raises as the above."""
    if not filters.numel():
        return
    if not _in_planes(filters):
        rule.dropout_(filters, keys, kernel_size, groups, p)
        return
    images, _, height, width = filters.shape
    sizes, keys = (images, kernel_size, groups, height * width), keys.contiguous()
    _done(library().laconv_cpu_drop_filters(*_map(filters), *sizes, *_rule(keys, p)))


def dropout(values: Tensor, keys: Tensor, p: float) -> Tensor:
    """`kernels.dropout.dropout` of values (B, ...), the same mask; raises as the above."""
    if values.dtype != torch.float32:
        return rule.dropout(values, keys, p)
    values, keys = values.contiguous(), keys.contiguous()
    dropped = torch.empty_like(values)
    if values.numel():
        buffers, sizes = (values.data_ptr(), dropped.data_ptr()), (len(values), values[0].numel())
        _done(library().laconv_cpu_drop_elements(*buffers, *sizes, *_rule(keys, p)))
    return dropped


def _rule(keys: Tensor, p: float) -> tuple[int, int, float, int]:
    assert keys.dtype == torch.int64
    return keys.data_ptr(), rule.threshold(p), rule.scale(p), torch.get_num_threads()


def _in_planes(filters: Tensor) -> bool:
    height, width = filters.shape[2:]
    return (width == 1 or filters.stride(3) == 1) and (height == 1 or filters.stride(2) == width)


def _planes(filters: Tensor) -> Tensor:
    return filters if _in_planes(filters) else filters.contiguous()


def _numbers(*values: int) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def _map(tensor: Tensor | None) -> tuple[int | None, ctypes.Array[ctypes.c_int64]]:
    if tensor is None:
        return None, _numbers(0, 0, 0, 0)
    assert tensor.dtype == torch.float32
    return tensor.data_ptr(), _numbers(*tensor.stride())


def _done(code: int) -> None:
    if code:
        raise MemoryError("laconv: out of memory on the CPU")
