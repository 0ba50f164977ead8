"""The kernels of the MLP whose hidden map is never written, as Python sees them (C interface: mlp/mlp.h)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from laconvnet.kernels.cuda.batch_norm import TYPES, vectors_of
from laconvnet.kernels.formats import about, channels_last, formatted

CHANNELS, TIMES = (16, 64, 128, 256), 4  # of y, those that there are kernels for; hidden channels to one of them
HALF_TYPES = (torch.float16, torch.bfloat16)
NO_KERNEL = -3  # LACONV_NO_FUSED_KERNEL


class MlpArguments(ctypes.Structure):
    """laconv_mlp_args."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("y", "w1", "w2", "grad", "beside", "result")),
        *((name, ctypes.c_void_p) for name in ("mean", "var", "weight", "bias", "sums", "count")),
        *((name, ctypes.c_void_p) for name in ("totals", "own", "workspace")),
        *((name, ctypes.c_int64) for name in ("pixels", "channels")),
        ("eps", ctypes.c_double),
    )


def takes(dtype: torch.dtype, channels: int) -> bool:
    """Whether there are kernels for maps of this type with so many channels."""
    return dtype in HALF_TYPES and channels in CHANNELS


class MlpKernels:
    """The passes of relu(BN(y W1^T)) W2^T, for `Library`; shapes and sums are those of `kernels.mlp`.

    Another layout than channels last is copied there and back. None is the answer where the device has no room for the
    kernel. Each raises RuntimeError naming the kernel and the tensor where something does not fit.
    """

    def mlp_statistics(self, y: Tensor, w1: Tensor) -> tuple[Tensor, Tensor] | None:
        """y (B, C, H, W), w1 (4 C, C) -> moments (C*C + C), own statistics of the hidden map (8 C + 1)."""
        name, channels = _entry("statistics", y, w1=w1), y.shape[1]
        totals, own = _floats(y, channels * (channels + 1)), _floats(y, 2 * TIMES * channels + 1)
        return (totals, own) if self._mlp(name, y, w1=w1, totals=totals, own=own) else None

    def mlp_forward(
        self, y: Tensor, w1: Tensor, w2: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor | None:
        """y (B, C, H, W), w1 (4 C, C), w2 (C, 4 C), the norm's (4 C,) -> (B, C, H, W)."""
        name = _entry("forward", y, w1=w1, w2=w2)
        vectors = vectors_of(name, y, len(w1), mean=mean, var=var, weight=weight, bias=bias)
        result = torch.empty_like(channels_last(y))
        done = self._mlp(name, y, eps, w1=w1, w2=w2, result=result, **vectors)
        return formatted(result, y) if done else None

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
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """grad and y (B, C, H, W) -> own sums (8 C), the gradient of w2 (C, 4 C), sums of g y^T (4 C, C)."""
        name = _entry("backward_reduce", y, w1=w1, w2=w2, grad=grad)
        vectors = vectors_of(name, y, len(w1), mean=mean, var=var, weight=weight, bias=bias)
        sizes = (2 * len(w1), w2.numel(), w1.numel())
        totals = _floats(y, sum(sizes))
        if not self._mlp(name, y, eps, w1=w1, w2=w2, grad=grad, totals=totals, **vectors):
            return None
        sums, of_w2, with_y = (each.clone() for each in totals.split(sizes))
        return sums, of_w2.view(w2.shape), with_y.view(w1.shape)

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
        beside: Tensor | None,
        eps: float,
    ) -> Tensor | None:
        """The gradient of y (B, C, H, W), and `beside`, like it.

        `sums` (8 C) and `count` (one number) are those of all processes.
        """
        added = {} if beside is None else {"beside": beside}
        name = _entry("backward_apply", y, w1=w1, w2=w2, grad=grad, **added)
        vectors = vectors_of(name, y, len(w1), mean=mean, var=var, weight=weight, bias=bias)
        vectors |= vectors_of(name, y, 2 * len(w1), sums=sums) | vectors_of(name, y, 1, count=count)
        result = torch.empty_like(channels_last(y))
        done = self._mlp(name, y, eps, w1=w1, w2=w2, grad=grad, result=result, **added, **vectors)
        return formatted(result, y) if done else None

    def _mlp(self, name: str, y: Tensor, eps: float = 0.0, **tensors: Tensor) -> bool:
        """Whether there was a kernel for it."""
        channels = y.shape[1]
        arguments = MlpArguments(pixels=y.numel() // channels, channels=channels, eps=eps)
        if "totals" in tensors:
            tensors["workspace"] = self._mlp_workspace(arguments, y)
        held = {field: _laid_out(tensor) for field, tensor in {"y": y, **tensors}.items()}
        for field, tensor in held.items():
            setattr(arguments, field, tensor.data_ptr())
        return self.launched(name, arguments, y.device, unless=NO_KERNEL)

    def _mlp_workspace(self, arguments: MlpArguments, y: Tensor) -> Tensor:
        return _floats(y, self.bytes_needed(f"laconv_mlp_workspace_{TYPES[y.dtype]}", arguments))

    def launched(self, name: str, arguments: ctypes.Structure, device: torch.device, unless: int = 0) -> bool:
        """As `Library` does."""
        raise NotImplementedError

    def bytes_needed(self, name: str, arguments: ctypes.Structure) -> int:
        """As `Library` does."""
        raise NotImplementedError


def _laid_out(tensor: Tensor) -> Tensor:
    """Dense, maps (B, C, H, W) channels last, beginning at a multiple of 16 bytes: a view may begin anywhere."""
    there = channels_last(tensor) if tensor.dim() == 4 else tensor.contiguous()
    return there.clone() if there.data_ptr() % 16 else there


def _floats(y: Tensor, count: int) -> Tensor:
    return torch.empty(count, device=y.device)


def _entry(what: str, y: Tensor, **others: Tensor) -> str:
    """The entry point for maps like y (B, C, H, W); raises RuntimeError where something does not fit."""
    if y.dim() != 4 or not takes(y.dtype, y.shape[1]):
        types, channels = ", ".join(map(str, HALF_TYPES)), ", ".join(map(str, CHANNELS))
        raise RuntimeError(f"mlp_{what}: y: expected (B, C, H, W) of one of {types}, C of {channels}, got {about(y)}")
    width, hidden = y.shape[1], TIMES * y.shape[1]
    shapes = {"w1": (hidden, width), "w2": (width, hidden), "grad": tuple(y.shape), "beside": tuple(y.shape)}
    for field, other in others.items():
        if (tuple(other.shape), other.dtype, other.device) != (shapes[field], y.dtype, y.device):
            raise RuntimeError(f"mlp_{what}: {field}: expected {shapes[field]} like y, {about(y)}, got {about(other)}")
    return f"laconv_mlp_{what}_{TYPES[y.dtype]}"
