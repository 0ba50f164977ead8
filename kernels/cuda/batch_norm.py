"""The kernels of batch norm as Python sees them (C interface: norm/norm.h)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from laconvnet.kernels.formats import about, formatted

TYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


class NormArguments(ctypes.Structure):
    """laconv_norm_args."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "beside", "out", "grad", "result", "masked")),
        *((name, ctypes.c_void_p) for name in ("mean", "var", "weight", "bias", "sums", "count")),
        *((name, ctypes.c_void_p) for name in ("totals", "workspace")),
        *((name, ctypes.c_int64) for name in ("rows", "channels", "relu", "relu_before", "packing", "cells")),
        *((name, ctypes.c_double) for name in ("eps", "slope")),
    )


class NormKernels:
    """The passes of batch norm, for `Library`; shapes and sums are those of `kernels.norm`, statistics float32.

    Maps are (B, C, ...) and worked on channels last; another layout is copied there and back. Each raises RuntimeError
    naming the kernel and the tensor where something does not fit; then nothing is returned.
    """

    _library: ctypes.CDLL

    def norm_statistics(self, x: Tensor, relu_before: bool = False) -> Tensor:
        """x (B, C, ...) -> (2 C + 1): means, variances, number of values a channel; of relu(x) with `relu_before`."""
        name, sizes = entry_point("statistics", x), _sizes(x)
        sizes.relu_before = int(relu_before)
        totals = torch.empty(2 * x.shape[1] + 1, device=x.device)
        self._run(name, sizes, _rows(x), totals=totals, workspace=self._workspace(x))
        return totals

    def norm_combine(self, every: Tensor) -> Tensor:
        """(processes, 2*C + 1), the statistics of each, float32 -> (2*C + 1,), those of all together."""
        if every.dim() != 2 or every.dtype != torch.float32 or every.shape[1] % 2 == 0:
            raise RuntimeError(f"norm_combine: every: expected (processes, 2 C + 1) float32, got {about(every)}")
        totals = every.new_empty(every.shape[1])
        sizes = NormArguments(rows=len(every), channels=every.shape[1] // 2)
        self._run("laconv_norm_combine_f32", sizes, every.contiguous(), totals=totals)
        return totals

    def norm_apply(
        self,
        x: Tensor,
        beside: Tensor | None,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        relu: bool,
        slope: float = 0.0,
    ) -> Tensor:
        """relu?(beside + BN(x)), (B, C, ...)."""
        name = entry_point("apply", x, beside=beside)
        result = _result(x)
        vectors = vectors_of(name, x, mean=mean, var=var, weight=weight, bias=bias)
        maps = {"beside": None if beside is None else _rows(beside), "result": result}
        self._run(name, _sizes(x, eps, relu, slope), _rows(x), **maps, **vectors)
        return formatted(result, x)

    def norm_backward_reduce(
        self,
        grad: Tensor,
        x: Tensor,
        out: Tensor | None,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        relu: bool,
        slope: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """(2 C): the gradients of bias and weight; with `out` and relu also the gradient before that, else (0,)."""
        name = entry_point("backward_reduce", x, grad=grad, out=out)
        by_result = relu and out is not None
        totals = torch.empty(2 * x.shape[1], device=x.device)
        masked = _result(x) if by_result else None
        vectors = vectors_of(name, x, mean=mean, var=var, weight=weight, bias=bias)
        maps = {"grad": _rows(grad), "masked": masked}
        maps["out"] = _rows(out) if by_result and out is not None else None
        more = {"totals": totals, "workspace": self._workspace(x)}
        self._run(name, _sizes(x, eps, relu, slope), _rows(x), **maps, **vectors, **more)
        return totals, x.new_empty(0) if masked is None else formatted(masked, x)

    def norm_backward_apply(
        self,
        grad: Tensor,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        sums: Tensor,
        count: Tensor,
        eps: float,
        relu: bool,
        slope: float = 0.0,
    ) -> Tensor:
        """The gradient of x (B, C, ...), `sums` (2 C) and `count` (one number) being those of all processes."""
        name = entry_point("backward_apply", x, grad=grad)
        result = _result(x)
        vectors = vectors_of(name, x, mean=mean, var=var, weight=weight, bias=bias)
        vectors |= vectors_of(name, x, 2 * x.shape[1], sums=sums) | vectors_of(name, x, 1, count=count)
        self._run(name, _sizes(x, eps, relu, slope), _rows(x), grad=_rows(grad), result=result, **vectors)
        return formatted(result, x)

    def _workspace(self, x: Tensor) -> Tensor:
        floats = getattr(self._library, f"laconv_norm_workspace_{TYPES[x.dtype]}")
        floats.argtypes, floats.restype = (ctypes.c_int64,), ctypes.c_int64
        return torch.empty(floats(x.shape[1]), device=x.device)

    def _run(self, name: str, sizes: NormArguments, x: Tensor, **tensors: Tensor | None) -> None:
        for field, tensor in {"x": x, **tensors}.items():
            setattr(sizes, field, None if tensor is None else tensor.data_ptr())
        self._launch(name, sizes, x)

    def _launch(self, name: str, arguments: ctypes.Structure, result: Tensor) -> None:
        raise NotImplementedError


def _rows(tensor: Tensor) -> Tensor:
    """(B, C, ...) as the kernels count it, (B, ..., C), dense: the same memory where it lies so."""
    return tensor.movedim(1, -1).contiguous()


def _result(x: Tensor) -> Tensor:
    """Memory for a map like x, dense, channels last; where x lies so, with its very strides."""
    return torch.empty_like(x) if _lies_so(x) else torch.empty_like(_rows(x)).movedim(-1, 1)


def _lies_so(x: Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous()


def _sizes(x: Tensor, eps: float = 0.0, relu: bool = False, slope: float = 0.0) -> NormArguments:
    channels = x.shape[1]
    rows = x.numel() // max(channels, 1)
    return NormArguments(rows=rows, channels=channels, relu=int(relu), eps=eps, slope=slope)


def entry_point(what: str, x: Tensor, **others: Tensor | None) -> str:
    """The entry point for maps like x (B, C, ...); raises RuntimeError where others are not like it."""
    if x.dtype not in TYPES or x.dim() < 2:
        known = ", ".join(map(str, TYPES))
        raise RuntimeError(f"norm_{what}: x: expected (B, C, ...) of one of {known}, got {about(x)}")
    for field, other in others.items():
        if other is not None and (other.shape, other.dtype, other.device) != (x.shape, x.dtype, x.device):
            raise RuntimeError(f"norm_{what}: {field}: expected the like of x, {about(x)}, got {about(other)}")
    return f"laconv_norm_{what}_{TYPES[x.dtype]}"


def vectors_of(name: str, x: Tensor, length: int | None = None, **given: Tensor) -> dict[str, Tensor]:
    """The numbers of channels as the kernels read them, (C,) for x (B, C, ...) or of that length: dense."""
    length = x.shape[1] if length is None else length
    for field, vector in given.items():
        if (vector.numel(), vector.dtype, vector.device) != (length, torch.float32, x.device):
            raise RuntimeError(f"{name}: {field}: expected {length} of float32 on {x.device}, got {about(vector)}")
    return {field: vector.contiguous() for field, vector in given.items()}
