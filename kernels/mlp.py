"""The operators of the MLP between two 1x1 convolutions, whose hidden map is never written to memory.

    z = relu(BN(y W1^T)) W2^T      for each pixel; h = y W1^T is the hidden map, four times as wide as y

    laconv::mlp_statistics       y, W1 -> moments (C*C + C): sums of y y^T and of y; own statistics of h (8 C + 1):
                                 means, variances, number of values a channel
    laconv::mlp_forward          y, W1, W2, statistics of all -> z
    laconv::mlp_backward_reduce  grad, y, ... -> own sums (8 C): gradients of the norm's bias and weight; the gradient
                                 of W2; sums of g y^T, g being the gradient behind the ReLU
    laconv::mlp_backward_apply   grad, y, ..., sums and count of all, beside? -> gradient of y, and `beside`

y, grad and results are maps (B, C, H, W) of one type, W1 (4C, C) and W2 (C, 4C) of the same; statistics, sums and all
that is summed are float32, float64 for float64. h is made anew in each pass and is not rounded to the type of maps.
`weight_gradient` gives the gradient of W1 from sums alone.

Bytes an element of y of 2 bytes: 2 + 4 forward, 4 + 6 backward, 16 in all. With h in memory, by two convolutions and
the passes of `kernels.norm`: 50 for the convolutions, which read or write h five times and y or z five times, and 64
for the norm of h. Nothing here is differentiable: `pipeline.model.joint_mlp` is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laconvnet.kernels.backend import backend
from laconvnet.kernels.cuda import Library
from laconvnet.kernels.cuda.mlp import takes
from laconvnet.kernels.norm import LIBRARY
from laconvnet.kernels.plain import mlp as plain

__all__ = ["compiled", "takes", "weight_gradient"]

_MATRICES = "Tensor y, Tensor w1, Tensor w2, Tensor mean, Tensor var, Tensor weight, Tensor bias"
for _schema in (
    "mlp_statistics(Tensor y, Tensor w1) -> (Tensor, Tensor)",
    f"mlp_forward({_MATRICES}, float eps) -> Tensor",
    f"mlp_backward_reduce(Tensor grad, {_MATRICES}, float eps) -> (Tensor, Tensor, Tensor)",
    f"mlp_backward_apply(Tensor grad, {_MATRICES}, Tensor sums, Tensor count, Tensor? beside, float eps) -> Tensor",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def compiled(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the passes would run by kernels on this GPU; a CPU, which has none, is taken for one that has."""
    return device.type != "cuda" or isinstance(backend(device, dtype), Library)


def weight_gradient(
    with_y: Tensor,
    moments: Tensor,
    w1: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    sums: Tensor,
    count: Tensor,
    eps: float,
) -> Tensor:
    """The gradient of W1, (4C, C), from what the passes have summed: no map is read.

    with_y (4C, C), moments (C*C + C), w1 (4C, C), mean, var and weight (4C,), `sums` (2*4C) and `count` (one number) of
    all processes. Through the norm comes scale * (g - mean(g) - (h - mean) inverse * mean(g (h - mean) inverse)); its
    sum with y is made of sums of g y, y and h y, and the last is W1 times the sums of y y^T.
    """
    channels = w1.shape[1]
    products, of_y = moments.double().split([channels * channels, channels])
    inverse = (var.double() + eps).rsqrt()
    mean_g, mean_gh = (sums.double() / count.double()).chunk(2)
    apart = w1.double() @ products.view(channels, channels) - mean.double()[:, None] * of_y
    through = with_y.double() - mean_g[:, None] * of_y - (mean_gh * inverse)[:, None] * apart
    gradient: Tensor = (weight.double() * inverse)[:, None] * through
    return gradient.to(with_y.dtype)


def _on_gpu(name: str, y: int) -> Any:
    """The compiled kernel where the backend has one for argument number y, else in PyTorch's operators."""

    def run(*arguments: Any) -> Any:
        map_ = arguments[y]
        there = backend(map_.device, map_.dtype) if takes(map_.dtype, map_.shape[1]) else None
        found = getattr(there, f"mlp_{name}")(*arguments) if isinstance(there, Library) else None
        return getattr(plain, name)(*arguments) if found is None else found

    return run


for _name, _y in (("statistics", 0), ("forward", 0), ("backward_reduce", 1), ("backward_apply", 1)):
    LIBRARY.impl(f"mlp_{_name}", getattr(plain, _name), "CPU")
    LIBRARY.impl(f"mlp_{_name}", _on_gpu(_name, _y), "CUDA")


def _fake_statistics(y: Tensor, w1: Tensor) -> tuple[Tensor, Tensor]:
    channels, dtype = y.shape[1], plain.sums_dtype(y)
    return y.new_empty(channels * (channels + 1), dtype=dtype), y.new_empty(2 * len(w1) + 1, dtype=dtype)


def _fake_forward(y: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(y)


def _fake_reduce(grad: Tensor, y: Tensor, w1: Tensor, w2: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    dtype = plain.sums_dtype(y)
    of_weights = (w2.new_empty(w2.shape, dtype=dtype), w1.new_empty(w1.shape, dtype=dtype))
    return y.new_empty(2 * len(w1), dtype=dtype), *of_weights


def _fake_apply(grad: Tensor, y: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(y)


for _name, _shapes in (
    ("statistics", _fake_statistics),
    ("forward", _fake_forward),
    ("backward_reduce", _fake_reduce),
    ("backward_apply", _fake_apply),
):
    torch.library.register_fake(f"laconv::mlp_{_name}", _shapes, lib=LIBRARY)
