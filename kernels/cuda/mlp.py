"""The kernels of the MLP whose hidden map is never written, as Python sees them (C interface: mlp/mlp.h)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from laconvnet.kernels.cuda.batch_norm import TYPES, vectors_of
from laconvnet.kernels.formats import about, channels_last, formatted

CHANNELS, TIMES = 16, 4  # of y; hidden channels to one of them
HALF_TYPES = (torch.float16, torch.bfloat16)


class MlpArguments(ctypes.Structure):
    """laconv_mlp_args."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("y", "w1", "w2", "grad", "result")),
        *((name, ctypes.c_void_p) for name in ("mean", "var", "weight", "bias", "sums", "count")),
        *((name, ctypes.c_void_p) for name in ("totals", "own", "workspace")),
        *((name, ctypes.c_int64) for name in ("pixels", "channels")),
        ("eps", ctypes.c_double),
    )


def takes(dtype: torch.dtype, channels: int) -> bool:
    """Whether there are kernels for maps of this type with so many channels."""
    return dtype in HALF_TYPES and channels == CHANNELS


class MlpKernels:
    """The passes of relu(BN(y W1^T)) W2^T, for `Library`; shapes and sums are those of `kernels.mlp`.

    Another layout than channels last is copied there and back. Each raises RuntimeError naming the kernel and the
    tensor where something does not fit; then nothing is returned.
    """

    _library: ctypes.CDLL

    def mlp_statistics(self, y: Tensor, w1: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, C, H, W), w1 (4 C, C) -> moments (C*C + C), own statistics of the hidden map (8 C + 1)."""
        name = _entry("statistics", y, w1=w1)
        totals, own = _floats(y, CHANNELS * (CHANNELS + 1)), _floats(y, 2 * TIMES * CHANNELS + 1)
        self._mlp(name, y, w1=w1, totals=totals, own=own, workspace=self._mlp_workspace(y))
        return totals, own

    def mlp_forward(
        self, y: Tensor, w1: Tensor, w2: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        """y (B, C, H, W), w1 (4 C, C), w2 (C, 4 C), the norm's (4 C,) -> (B, C, H, W)."""
        name = _entry("forward", y, w1=w1, w2=w2)
        vectors = vectors_of(name, y, TIMES * CHANNELS, mean=mean, var=var, weight=weight, bias=bias)
        result = torch.empty_like(channels_last(y))
        self._mlp(name, y, eps, w1=w1, w2=w2, result=result, **vectors)
        return formatted(result, y)

    def mlp_backward_reduce(
        self,
        grad: Tensor,
        y: Tensor,
        w1: Tensor,
        w2: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """grad and y (B, C, H, W) -> own sums (8 C), the gradient of w2 (C, 4 C), sums of g y^T (4 C, C)."""
        name, hidden = _entry("backward_reduce", y, w1=w1, w2=w2, grad=grad), TIMES * CHANNELS
        vectors = vectors_of(name, y, hidden, mean=mean, var=var, weight=weight, bias=bias)
        sizes = (2 * hidden, hidden * CHANNELS, hidden * CHANNELS)
        totals = _floats(y, sum(sizes))
        more = {"totals": totals, "workspace": self._mlp_workspace(y)}
        self._mlp(name, y, eps, w1=w1, w2=w2, grad=channels_last(grad), **vectors, **more)
        sums, of_w2, with_y = totals.split(sizes)
        return sums.clone(), of_w2.view(w2.shape).clone(), with_y.view(w1.shape).clone()

    def mlp_backward_apply(
        self,
        grad: Tensor,
        y: Tensor,
        w1: Tensor,
        w2: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        sums: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        """The gradient of y (B, C, H, W); `sums` (8 C) and `count` (one number) are those of all processes."""
        name, hidden = _entry("backward_apply", y, w1=w1, w2=w2, grad=grad), TIMES * CHANNELS
        vectors = vectors_of(name, y, hidden, mean=mean, var=var, weight=weight, bias=bias)
        vectors |= vectors_of(name, y, 2 * hidden, sums=sums) | vectors_of(name, y, 1, count=count)
        result = torch.empty_like(channels_last(y))
        self._mlp(name, y, eps, w1=w1, w2=w2, grad=channels_last(grad), result=result, **vectors)
        return formatted(result, y)

    def _mlp_workspace(self, y: Tensor) -> Tensor:
        floats = getattr(self._library, f"laconv_mlp_workspace_{TYPES[y.dtype]}")
        floats.argtypes, floats.restype = (ctypes.c_int64,), ctypes.c_int64
        return _floats(y, floats(_pixels(y)))

    def _mlp(self, name: str, y: Tensor, eps: float = 0.0, **tensors: Tensor) -> None:
        arguments = MlpArguments(pixels=_pixels(y), channels=y.shape[1], eps=eps)
        held = {field: each.contiguous() if field in ("w1", "w2") else each for field, each in tensors.items()}
        for field, tensor in {"y": channels_last(y), **held}.items():
            held[field] = tensor
            setattr(arguments, field, tensor.data_ptr())
        self._launch(name, arguments, y)

    def _launch(self, name: str, arguments: ctypes.Structure, result: Tensor) -> None:
        raise NotImplementedError


def _pixels(y: Tensor) -> int:
    return y.numel() // CHANNELS


def _floats(y: Tensor, count: int) -> Tensor:
    return torch.empty(count, device=y.device)


def _entry(what: str, y: Tensor, **others: Tensor) -> str:
    """The entry point for maps like y (B, C, H, W); raises RuntimeError where something does not fit."""
    if y.dim() != 4 or not takes(y.dtype, y.shape[1]):
        known = ", ".join(map(str, HALF_TYPES))
        raise RuntimeError(f"mlp_{what}: y: expected (B, {CHANNELS}, H, W) of one of {known}, got {about(y)}")
    hidden = TIMES * CHANNELS
    shapes = {"w1": (hidden, CHANNELS), "w2": (CHANNELS, hidden), "grad": tuple(y.shape)}
    for field, other in others.items():
        if (tuple(other.shape), other.dtype, other.device) != (shapes[field], y.dtype, y.device):
            raise RuntimeError(f"mlp_{what}: {field}: expected {shapes[field]} like y, {about(y)}, got {about(other)}")
    return f"laconv_mlp_{what}_{TYPES[y.dtype]}"
