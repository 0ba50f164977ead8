"""The kernel library as Python sees it: tensors in, tensors out, every error in words (C interface: laconv.h)."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laconvnet.kernels.cuda.compiler import KERNEL_SIZES
from laconvnet.kernels.dropout import check_probability, threshold

TYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64"}
_SIZE_NAMES = {number: name for name, number in KERNEL_SIZES.items() if number}


class ConvArguments(ctypes.Structure):
    """laconv_conv_args."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "filters", "grad", "result")),
        *((name, ctypes.c_int64) for name in ("batch", "height", "width", "channels", "groups", "kernel_size")),
        ("interleaved", ctypes.c_int64),
    )


class DropoutArguments(ctypes.Structure):
    """laconv_dropout_args."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("source", "result", "keys")),
        *((name, ctypes.c_int64) for name in ("images", "elements", "groups", "kernel_size", "threshold")),
    )


class Library:
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

    def dynamic_conv(self, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
        """v2 Eq. 2: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W)."""
        _check(f"{self.family}_forward", x, filters, kernel_size, groups)
        source, weights = self._laid_out(x), self._laid_out(filters)
        result = self._result(x)
        arguments = _arguments(x, kernel_size, groups, interleaved)
        arguments.x, arguments.filters, arguments.result = (t.data_ptr() for t in (source, weights, result))
        self._convolve("forward", arguments, result)
        return self._shaped_like(result, x)

    def dynamic_conv_backward(
        self, grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
    ) -> tuple[Tensor, Tensor]:
        """The gradients of x (B, C, H, W) and filters (B, k*k*g, H, W), from that of the output, (B, C, H, W)."""
        name = f"{self.family}_backward"
        _check(name, x, filters, kernel_size, groups)
        if grad.shape != x.shape or grad.dtype != x.dtype or grad.device != x.device:
            raise RuntimeError(f"{name}: grad: expected the like of x, {_about(x)}, got {_about(grad)}")
        above, source, weights = self._laid_out(grad), self._laid_out(x), self._laid_out(filters)
        grad_x, grad_filters = self._result(x), self._result(filters)
        arguments = _arguments(x, kernel_size, groups, interleaved)
        arguments.x, arguments.filters, arguments.grad = (t.data_ptr() for t in (source, weights, above))
        arguments.result = grad_x.data_ptr()
        self._convolve("grad_x", arguments, grad_x)
        arguments.result = grad_filters.data_ptr()
        self._convolve("grad_filters", arguments, grad_filters)
        return self._shaped_like(grad_x, x), self._shaped_like(grad_filters, filters)

    def dropout_(self, filters: Tensor, keys: Tensor, kernel_size: int, groups: int, p: float) -> None:
        """`kernels.dropout.dropout_`: drops values of filters (B, k*k*g, H, W) in place, whatever the memory format.

        keys (B,) int64, on the device; those on the CPU are copied there (and are fixed in a captured graph).
        """
        name = f"laconv_drop_filters_{_type_name(filters)}"
        keys = _keys(name, filters, keys, p)
        if filters.dim() != 4 or filters.shape[1] != kernel_size**2 * groups:
            raise RuntimeError(
                f"{name}: filters {_about(filters)} do not fit kernel_size {kernel_size}, groups {groups}"
            )
        values = filters.contiguous(memory_format=torch.channels_last)
        self._drop(name, values, values, keys, p, groups=groups, kernel_size=kernel_size)
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

    def _laid_out(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self.layout)

    def _result(self, like: Tensor) -> Tensor:
        """Dense memory for a result; strides of sides of length 1 are those of `like` where it can serve."""
        if like.is_contiguous(memory_format=self.layout):
            return torch.empty_like(like)
        return torch.empty_like(like, memory_format=self.layout)

    def _shaped_like(self, result: Tensor, like: Tensor) -> Tensor:
        if like.is_contiguous(memory_format=self.layout):
            return result
        return torch.empty_like(like).copy_(result)

    def _launch(self, name: str, arguments: ctypes.Structure, result: Tensor) -> None:
        self.launched(name, arguments, result.device)

    def launched(self, name: str, arguments: ctypes.Structure, device: torch.device, unless: int = 0) -> bool:
        """Calls an entry point; False where it answers with the code `unless`.

        Raises RuntimeError, naming the entry point, the device, sizes and reason, at any other code but success.
        """
        code = self._code(name, arguments, device)
        if code and code != unless:
            words = self._library.laconv_words(code).decode(errors="replace")
            values = {field[0]: getattr(arguments, field[0]) for field in arguments._fields_}
            sizes = ", ".join(f"{field} {value}" for field, value in values.items() if field not in _ADDRESSES)
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


_ADDRESSES = (
    *("x", "filters", "grad", "result", "source", "keys"),
    *("cond", "weight", "bias", "grad_cond", "grad_weight", "grad_bias", "workspace"),
)


def _arguments(x: Tensor, kernel_size: int, groups: int, interleaved: bool) -> ConvArguments:
    batch, channels, height, width = x.shape
    return ConvArguments(
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        groups=groups,
        kernel_size=kernel_size,
        interleaved=int(interleaved),
    )


def _keys(name: str, values: Tensor, keys: Tensor, p: float) -> Tensor:
    """Where the values are; the kernels trust that there is one an image."""
    try:
        check_probability(p, "p")
    except ValueError as error:
        raise RuntimeError(f"{name}: {error}") from error
    if p == 0.0 or keys.dtype != torch.int64 or keys.shape != values.shape[:1]:
        raise RuntimeError(
            f"{name}: expected p > 0 and keys ({values.shape[0]},) int64, got p {p} and keys {_about(keys)}"
        )
    if keys.device.type != "cpu" and keys.device != values.device:
        raise RuntimeError(f"{name}: keys: expected the CPU or {values.device}, got {keys.device}")
    return keys.to(values.device).contiguous()


def _about(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def _type_name(tensor: Tensor) -> str:
    if tensor.dtype not in TYPES:
        raise RuntimeError(f"no kernel for {tensor.dtype}; expected one of {', '.join(map(str, TYPES))}")
    return TYPES[tensor.dtype]


def _check(name: str, x: Tensor, filters: Tensor, kernel_size: int, groups: int) -> None:
    """The kernels trust their sizes, so memory is only safe with these."""
    _type_name(x)
    wanted = (x.shape[0], kernel_size**2 * groups, *x.shape[2:])
    same = filters.dtype == x.dtype and filters.device == x.device
    if x.dim() != 4 or filters.shape != wanted or not same or kernel_size % 2 == 0 or groups < 1 or x.shape[1] % groups:
        raise RuntimeError(
            f"{name}: x {_about(x)} and filters {_about(filters)} do not fit kernel_size {kernel_size}, groups {groups}"
        )
