"""The C++ kernel as a backend: float32 and bfloat16 on the CPU, images in any layout (legend: `kernels.plain.taps`)."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from laconvnet.kernels import dropout as rule
from laconvnet.kernels.cpu import build
from laconvnet.kernels.filter_layout import FilterLayout

_NUMBERS = ctypes.POINTER(ctypes.c_int64)
_BUFFER, _STRIDES = ctypes.c_void_p, _NUMBERS
_TYPES = {torch.float32: 0, torch.bfloat16: 1}  # as the library counts them


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernel. Raises BuildError."""
    found = build.library()
    image = (_BUFFER, _STRIDES)
    found.laconv_cpu_forward.argtypes = (_NUMBERS, ctypes.c_int64, *image * 3, ctypes.c_int64)
    found.laconv_cpu_backward.argtypes = (_NUMBERS, ctypes.c_int64, *image * 5, ctypes.c_int64)
    found.laconv_cpu_use.argtypes, found.laconv_cpu_use.restype = (_BUFFER,), None
    by_rule = (_BUFFER, ctypes.c_uint32, ctypes.c_float, ctypes.c_int64)
    found.laconv_cpu_drop_filters.argtypes = (ctypes.c_int64, *image, *(ctypes.c_int64,) * 4, *by_rule)
    found.laconv_cpu_drop_elements.argtypes = (_BUFFER, _BUFFER, *(ctypes.c_int64,) * 2, *by_rule)
    found.laconv_cpu_use(openmp())
    return found


def openmp() -> ctypes.c_void_p | None:
    """The entry of the OpenMP runtime that PyTorch has loaded (all makes know GNU's); None: own threads serve."""
    entry = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return ctypes.cast(entry, ctypes.c_void_p) if entry else None


def half_types() -> tuple[torch.dtype, ...]:
    """bfloat16 where the processor multiplies it faster than float32, and PyTorch makes use of that.

    The convolution takes it everywhere, and widens it as it loads. The projection's products are PyTorch's, and without
    such instructions they are several times slower than in float32.
    """
    return (torch.bfloat16,) if multiplies_bfloat16() and torch.backends.mkldnn.enabled else ()


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the processor has AVX512-BF16 (all with AMX have it), and this PyTorch oneDNN, which alone uses it."""
    # Private, and other makes of PyTorch may lack it. That of `torch.ops.mkldnn` tells of AVX-512 alone.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return bool(torch.backends.mkldnn.is_available() and supported())


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
    """v2 Eq. 2 summed in float32: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W), in `out` if given.

    Raises BuildError where the kernel cannot be had, MemoryError where it finds no memory.
    """
    filters = _planes(filters)
    out = torch.empty_like(x) if out is None else out
    if out.numel():
        shape = _numbers(*x.shape, kernel_size, groups, int(interleaved))
        maps = _maps(x, filters, out)
        _done(library().laconv_cpu_forward(shape, *maps, torch.get_num_threads()))
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
        maps = _maps(grad, x, planes, to_x, to_filters)
        _done(library().laconv_cpu_backward(_numbers(*grad.shape, *sizes), *maps, torch.get_num_threads()))
    elif to_filters is not None:
        to_filters.zero_()


def dropout_(filters: Tensor, keys: Tensor, kernel_size: int, groups: int, p: float) -> None:
    """`kernels.dropout.dropout_` of filters (B, k*k*g, H, W), the same mask; raises as the above."""
    if not filters.numel():
        return
    if not _in_planes(filters) or filters.dtype not in _TYPES:
        rule.dropout_(filters, keys, kernel_size, groups, p)
        return
    images, _, height, width = filters.shape
    sizes, keys = (images, kernel_size, groups, height * width), keys.contiguous()
    _done(library().laconv_cpu_drop_filters(*_maps(filters), *sizes, *_rule(keys, p)))


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


def _maps(*tensors: Tensor | None) -> Iterator[Any]:
    """The number of their type, then buffer and strides of each."""
    (dtype,) = {tensor.dtype for tensor in tensors if tensor is not None}
    yield _TYPES[dtype]
    for tensor in tensors:
        yield None if tensor is None else tensor.data_ptr()
        yield _numbers(0, 0, 0, 0) if tensor is None else _numbers(*tensor.stride())


def _done(code: int) -> None:
    if code:
        raise MemoryError("laconv: out of memory on the CPU")
