"""The kernel library as Python sees it: tensors in, tensors out, every error in words (C interface: laconv.h)."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laconvnet.kernels.cuda import batch_norm
from laconvnet.kernels.cuda.attention import AttentionKernels
from laconvnet.kernels.cuda.compiler import KERNEL_SIZES
from laconvnet.kernels.cuda.mlp import MlpKernels
from laconvnet.kernels.cuda.packed_norm import PackedNormKernels
from laconvnet.kernels.cuda.stem import StemKernels
from laconvnet.kernels.dropout import check_probability, threshold
from laconvnet.kernels.filter_layout import FilterLayout, filters_of_a_pixel, row_length
from laconvnet.kernels.formats import about, formatted

TYPES = {**batch_norm.TYPES, torch.float64: "f64"}
LARGEST_PADDED_CHANNELS = 2**20  # as in layout.cuh
_SIZE_NAMES = {number: name for name, number in KERNEL_SIZES.items() if number}


class ConvArguments(ctypes.Structure):
    """laconv_conv_args."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "filters", "grad", "result")),
        *((name, ctypes.c_int64) for name in ("batch", "height", "width", "channels", "groups", "kernel_size")),
        *((name, ctypes.c_int64) for name in ("interleaved", "padded")),
    )


class DropoutArguments(ctypes.Structure):
    """laconv_dropout_args."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("source", "result", "keys")),
        *((name, ctypes.c_int64) for name in ("images", "elements", "groups", "kernel_size", "padded", "threshold")),
    )


class Library(PackedNormKernels, AttentionKernels, MlpKernels, StemKernels):
    """A loaded library; its functions launch on the current stream of their tensors' device and return at once.

    Shapes are those of `kernels.plain.taps`. Results take the memory format of what they are like; `layout` is what the
    kernels work on, any other is copied there and back. Each function raises RuntimeError naming kernel, shapes and
    the reason where it cannot do its work; then nothing is returned. Raises OSError if the file is no such library.
    """

    family = "dynamic_conv"
    layout = torch.channels_last

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        try:
            self._library.laconv_words.argtypes = (ctypes.c_int,)
            self._library.laconv_words.restype = ctypes.c_char_p
        except AttributeError as error:
            raise OSError(f"{path}: not a library of these kernels: {error}") from error

    def filter_layout(self, x: Tensor, kernel_size: int, groups: int, interleaved: bool) -> FilterLayout:
        """How filters for x (B, C, H, W) should lie: in padded rows wherever there are kernels for these."""
        whole = not interleaved and x.shape[1] % (4 * groups) == 0 and x.shape[1] <= LARGEST_PADDED_CHANNELS
        fits = whole and x.dtype != torch.float64 and row_length(kernel_size) > 0
        return FilterLayout.PADDED_ROWS if fits else FilterLayout.PIXELS

    def dynamic_conv(
        self,
        x: Tensor,
        filters: Tensor,
        kernel_size: int,
        groups: int,
        interleaved: bool,
        layout: FilterLayout = FilterLayout.PIXELS,
        out: Tensor | None = None,
    ) -> Tensor:
        """v2 Eq. 2: x (B, C, H, W), filters (B, k*k*g, H, W) or in padded rows -> (B, C, H, W), in `out` if given."""
        padded = layout is FilterLayout.PADDED_ROWS
        _check(f"{self.family}_forward", x, filters, kernel_size, groups, padded)
        arguments = _arguments(x, kernel_size, groups, interleaved, padded)
        images, rows = _alignments(x, padded)
        source, weights, result = self._laid_out(x, images), self._laid_out(filters, rows), self._result(x, out, images)
        arguments.x, arguments.filters, arguments.result = (t.data_ptr() for t in (source, weights, result))
        self._convolve("forward", arguments, result)
        return self._shaped_like(result, x, out)

    def dynamic_conv_backward(
        self,
        grad: Tensor,
        x: Tensor,
        filters: Tensor,
        kernel_size: int,
        groups: int,
        interleaved: bool,
        layout: FilterLayout = FilterLayout.PIXELS,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The gradients of x (B, C, H, W), in `out` if given, and of filters, from that of the output, (B, C, H, W)."""
        above = self._laid_out(grad, 1)  # once for both
        sizes = (kernel_size, groups, interleaved, layout)
        grad_filters = self.grad_filters(above, x, *sizes)
        grad_x = self.grad_x(above, filters, *sizes, torch.empty_like(x) if out is None else out)
        return grad_x, self._shaped_like(grad_filters, filters)

    def grad_x(
        self,
        grad: Tensor,
        filters: Tensor,
        kernel_size: int,
        groups: int,
        interleaved: bool,
        layout: FilterLayout = FilterLayout.PIXELS,
        out: Tensor | None = None,
    ) -> Tensor:
        """The gradient of x (B, C, H, W) alone, in the memory format of `grad` or in `out`."""
        padded = layout is FilterLayout.PADDED_ROWS
        _check(f"{self.family}_grad_x", grad, filters, kernel_size, groups, padded)
        arguments = _arguments(grad, kernel_size, groups, interleaved, padded)
        images, rows = _alignments(grad, padded)
        above, weights = self._laid_out(grad, images), self._laid_out(filters, rows)
        result = self._result(grad, out, images)
        arguments.grad, arguments.filters, arguments.result = (t.data_ptr() for t in (above, weights, result))
        self._convolve("grad_x", arguments, result)
        return self._shaped_like(result, grad, out)

    def grad_filters(
        self,
        grad: Tensor,
        x: Tensor,
        kernel_size: int,
        groups: int,
        interleaved: bool,
        layout: FilterLayout = FilterLayout.PIXELS,
    ) -> Tensor:
        """The gradient of the filters alone, (B, k*k*g, H, W) or in padded rows, as the kernels lay it out."""
        name, padded = f"{self.family}_grad_filters", layout is FilterLayout.PADDED_ROWS
        _check(name, x, None, kernel_size, groups, padded)
        if grad.shape != x.shape or grad.dtype != x.dtype or grad.device != x.device:
            raise RuntimeError(f"{name}: grad: expected the like of x, {about(x)}, got {about(grad)}")
        arguments = _arguments(x, kernel_size, groups, interleaved, padded)
        images, _ = _alignments(x, padded)
        above, source = self._laid_out(grad, images), self._laid_out(x, images)
        shape = (x.shape[0], filters_of_a_pixel(kernel_size, groups, padded), *x.shape[2:])
        result = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=self.layout)
        arguments.grad, arguments.x, arguments.result = (t.data_ptr() for t in (above, source, result))
        self._convolve("grad_filters", arguments, result)
        return result

    def dropout_(self, filters: Tensor, keys: Tensor, kernel_size: int, groups: int, p: float) -> None:
        """`kernels.dropout.dropout_`: drops values of filters (B, k*k*g, H, W) in place, whatever the memory format.

        Padded rows, (B, g*k*row, H, W), are told by their number: the same values of the same taps are dropped.
        keys (B,) int64, on the device; those on the CPU are copied there (and are fixed in a captured graph).
        """
        name = f"laconv_drop_filters_{_type_name(filters)}"
        keys = _keys(name, filters, keys, p)
        padded = filters.dim() == 4 and filters.shape[1] == filters_of_a_pixel(kernel_size, groups, padded=True)
        if not padded and (filters.dim() != 4 or filters.shape[1] != kernel_size**2 * groups):
            raise RuntimeError(
                f"{name}: filters {about(filters)} do not fit kernel_size {kernel_size}, groups {groups}"
            )
        values = filters.contiguous(memory_format=torch.channels_last)
        sizes = {"groups": groups, "kernel_size": kernel_size, "padded": int(padded)}
        self._drop(name, values, values, keys, p, **sizes)
        if values.data_ptr() != filters.data_ptr():
            filters.copy_(values)

    def dropout(self, values: Tensor, keys: Tensor, p: float) -> Tensor:
        """`kernels.dropout.dropout`: `values` (B, ...) with some dropped, contiguous; keys as for `dropout_`."""
        name = f"laconv_drop_elements_{_type_name(values)}"
        keys, values = _keys(name, values, keys, p), values.contiguous()
        result = torch.empty_like(values)
        self._drop(name, values, result, keys, p)
        return result

    def _drop(self, name: str, source: Tensor, result: Tensor, keys: Tensor, p: float, **sizes: int) -> None:
        if not source.numel():
            return
        addresses = {"source": source.data_ptr(), "result": result.data_ptr(), "keys": keys.data_ptr()}
        shape = {"images": source.shape[0], "elements": source[0].numel(), **sizes}
        self._launch(name, DropoutArguments(threshold=threshold(p), **addresses, **shape), result)

    def _kernel(self, what: str, dtype: torch.dtype, kernel_size: int) -> str:
        size = "any" if dtype == torch.float64 else _SIZE_NAMES.get(kernel_size, "any")
        return f"laconv_dynamic_conv_{what}_{TYPES[dtype]}_{size}"

    def _convolve(self, what: str, arguments: ConvArguments, result: Tensor) -> None:
        if result.numel():
            self._launch(self._kernel(what, result.dtype, arguments.kernel_size), arguments, result)

    def _laid_out(self, tensor: Tensor, alignment: int) -> Tensor:
        """As the kernels want it, beginning at a multiple of so many bytes: a view may begin anywhere."""
        there = tensor.contiguous(memory_format=self.layout)
        return there.clone() if there.data_ptr() % alignment else there

    def _result(self, like: Tensor, out: Tensor | None = None, alignment: int = 1) -> Tensor:
        """Dense memory for a result; strides of sides of length 1 are those of `like` where it can serve."""
        if out is not None and out.is_contiguous(memory_format=self.layout) and out.data_ptr() % alignment == 0:
            return out
        if like.is_contiguous(memory_format=self.layout):
            return torch.empty_like(like)
        return torch.empty_like(like, memory_format=self.layout)

    def _shaped_like(self, result: Tensor, like: Tensor, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return out if result is out else out.copy_(result)
        return formatted(result, like)

    def _launch(self, name: str, arguments: ctypes.Structure, result: Tensor) -> None:
        self.launched(name, arguments, result.device)

    def launched(self, name: str, arguments: ctypes.Structure, device: torch.device, unless: int = 0) -> bool:
        """Calls an entry point; False where it answers with the code `unless`.

        Raises RuntimeError, naming the entry point, the device, sizes and reason, at any other code but success.
        """
        code = self._code(name, arguments, device)
        if code and code != unless:
            words = self._library.laconv_words(code).decode(errors="replace")
            fields = [name for name, kind, *_ in arguments._fields_ if kind is not ctypes.c_void_p]
            sizes = ", ".join(f"{name} {getattr(arguments, name)}" for name in fields)
            raise RuntimeError(f"{name} on {device} ({sizes}): {words} (error {code})")
        return code == 0

    def bytes_needed(self, name: str, arguments: ctypes.Structure) -> int:
        """What the entry point `name` says of the memory that these arguments want."""
        function = self._function(name)
        function.restype = ctypes.c_int64
        return int(function(ctypes.byref(arguments)))

    def _function(self, name: str) -> Any:
        try:
            return getattr(self._library, name)
        except AttributeError as error:
            raise RuntimeError(f"{self.path}: not a library of these kernels: {error}") from error

    def _code(self, name: str, arguments: ctypes.Structure, device: torch.device) -> int:
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream(device).cuda_stream
            return int(self._function(name)(ctypes.byref(arguments), ctypes.c_void_p(stream)))


def _arguments(x: Tensor, kernel_size: int, groups: int, interleaved: bool, padded: bool) -> ConvArguments:
    batch, channels, height, width = x.shape
    return ConvArguments(
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        groups=groups,
        kernel_size=kernel_size,
        interleaved=int(interleaved),
        padded=int(padded),
    )


def _keys(name: str, values: Tensor, keys: Tensor, p: float) -> Tensor:
    """Where the values are; the kernels trust that there is one an image."""
    try:
        check_probability(p, "p")
    except ValueError as error:
        raise RuntimeError(f"{name}: {error}") from error
    if p == 0.0 or keys.dtype != torch.int64 or keys.shape != values.shape[:1]:
        raise RuntimeError(
            f"{name}: expected p > 0 and keys ({values.shape[0]},) int64, got p {p} and keys {about(keys)}"
        )
    if keys.device.type != "cpu" and keys.device != values.device:
        raise RuntimeError(f"{name}: keys: expected the CPU or {values.device}, got {keys.device}")
    return keys.to(values.device).contiguous()


def _alignments(x: Tensor, padded: bool) -> tuple[int, int]:
    """Of images and of filters, in bytes; filters that lie one by one are loaded so from any address (laconv.h)."""
    return (4 * x.element_size(), 16) if padded else (1, 1)


def _type_name(tensor: Tensor) -> str:
    if tensor.dtype not in TYPES:
        raise RuntimeError(f"no kernel for {tensor.dtype}; expected one of {', '.join(map(str, TYPES))}")
    return TYPES[tensor.dtype]


def _check(name: str, x: Tensor, filters: Tensor | None, kernel_size: int, groups: int, padded: bool) -> None:
    """The kernels trust their sizes, so memory is only safe with these."""
    _type_name(x)
    fits = x.dim() == 4 and kernel_size % 2 == 1 and groups >= 1 and x.shape[1] % groups == 0
    if fits and filters is not None:
        wanted = (x.shape[0], filters_of_a_pixel(kernel_size, groups, padded), *x.shape[2:])
        fits = filters.shape == wanted and filters.dtype == x.dtype and filters.device == x.device
    if not fits:
        there = "" if filters is None else f" and filters {about(filters)}"
        raise RuntimeError(f"{name}: x {about(x)}{there} do not fit kernel_size {kernel_size}, groups {groups}")
