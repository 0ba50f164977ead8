"""The kernel library as Python sees it: tensors in, tensors out, every error in words (C interface: laconv.h)."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from laconvnet.kernels.cuda.batch_norm import NormKernels
from laconvnet.kernels.cuda.compiler import KERNEL_SIZES

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
        ("values", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("images", "elements", "first_image")),
        ("seed_address", ctypes.c_void_p),
        ("seed", ctypes.c_int64),
        ("p", ctypes.c_double),
    )


class Library(NormKernels):
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

    def dropout_(self, filters: Tensor, seed: Tensor, first_image: int, p: float) -> None:
        """In place: zeroes filter values (B, k*k*g, H, W) with probability `p` and scales the rest by 1 / (1 - p).

        The mask is a function of (seed, first_image + image, element of the image, channels last), whatever the memory
        format; `p` is taken to the nearest 1/65536. seed: one integer; on the device the kernel reads it there, on the
        CPU it is read now (and is fixed in a captured graph). Bits: Philox4x32-10.
        """
        name = f"laconv_dropout_{_type_name(filters)}"
        if not 0.0 <= p < 1.0 or seed.numel() != 1 or seed.is_floating_point() or first_image < 0:
            raise RuntimeError(
                f"{name}: expected p in [0, 1), one integer as seed and first_image >= 0, got p {p}, seed "
                f"{_about(seed)}, first_image {first_image}"
            )
        if seed.device.type != "cpu" and seed.device != filters.device:
            raise RuntimeError(f"{name}: seed: expected the CPU or {filters.device}, got {seed.device}")
        if p == 0.0 or filters.numel() == 0:
            return
        values = filters.contiguous(memory_format=torch.channels_last)
        seed = seed.detach().to(torch.int64)
        there = seed.device.type != "cpu"
        arguments = DropoutArguments(
            values=values.data_ptr(),
            images=filters.shape[0],
            elements=filters[0].numel(),
            first_image=first_image,
            seed_address=seed.data_ptr() if there else None,
            seed=0 if there else int(seed),
            p=p,
        )
        self._launch(name, arguments, values)
        if values.data_ptr() != filters.data_ptr():
            filters.copy_(values)

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
        try:
            code = self._code(name, arguments, result.device)
        except AttributeError as error:
            raise RuntimeError(f"{self.path}: not a library of these kernels: {error}") from error
        if code:
            words = self._library.laconv_words(code).decode(errors="replace")
            fields = [
                field for field, kind, *_ in arguments._fields_ if kind is not ctypes.c_void_p and field != "seed"
            ]
            sizes = ", ".join(f"{field} {getattr(arguments, field)}" for field in fields)
            raise RuntimeError(f"{name} on {result.device} ({sizes}): {words} (error {code})")

    def _code(self, name: str, arguments: ctypes.Structure, device: torch.device) -> int:
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream(device).cuda_stream
            return int(getattr(self._library, name)(ctypes.byref(arguments), ctypes.c_void_p(stream)))


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
