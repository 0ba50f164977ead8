"""The operators of batch norm over all processes: four passes, and an exchange behind the first and the third.

    laconv::norm_statistics       x, of which relu? is taken -> own (2 C + 1): means, variances (by the count), number
                                  of values a channel
    laconv::norm_combine          what was exchanged, (processes, 2 C + 1) -> (2 C + 1), the same of all processes
    laconv::norm_apply            x, beside?, statistics of all -> relu?(beside + BN(x))
    laconv::norm_backward_reduce  grad, x, out? -> own sums (2 C): gradients of bias and weight; masked gradient
    laconv::norm_backward_apply   grad, x, sums and count of all -> gradient of x

x, beside, grad, out and results are maps (B, C, ...) of one type; mean, var, weight and bias (C,), sums and count are
float32, float64 for maps of float64, and the arithmetic is in that. With relu, numbers below zero are multiplied by
`slope`, 0 or up to 1 (a leaky ReLU), and the backward passes want to know where its input was positive. Either
norm_backward_reduce is given the forward result, `out`, and also returns the gradient before the ReLU, which is to be
handed on (with relu false); or, without `out` and where nothing was added, both compute the sign of BN(x) again, and
what stands for the masked gradient is empty, (0,).

Bytes an element of a map of 2 bytes (float32: twice): 2 + 4 forward, 4 + 6 backward, 16 in all. That is the least where
sums must be known before a map is walked again and no map stays on the chip; the first 2 would go where what makes the
map took its statistics, as `kernels.mlp` does, but not a convolution of cuDNN. With `beside` and relu 2 more each to
read `beside`, to read `out` and to write the gradient of `beside`, 22 in all. Nothing is widened in memory. On a GPU
sums have one order on all runs and chips. Nothing here is differentiable: `pipeline.model.joint_norm` is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from laconvnet.kernels.backend import backend
from laconvnet.kernels.cuda import Library
from laconvnet.kernels.cuda.batch_norm import TYPES
from laconvnet.kernels.plain import norm as by_cpu
from laconvnet.kernels.plain import norm_cuda as by_torch

LIBRARY = torch.library.Library("laconv", "FRAGMENT")

_CHANNELS = "Tensor mean, Tensor var, Tensor weight, Tensor bias"
for _schema in (
    "norm_statistics(Tensor x, bool relu_before=False) -> Tensor",
    "norm_combine(Tensor every) -> Tensor",
    f"norm_apply(Tensor x, Tensor? beside, {_CHANNELS}, float eps, bool relu, float slope=0.0) -> Tensor",
    f"norm_backward_reduce(Tensor grad, Tensor x, Tensor? out, {_CHANNELS}, float eps, bool relu, "
    "float slope=0.0) -> (Tensor, Tensor)",
    f"norm_backward_apply(Tensor grad, Tensor x, {_CHANNELS}, Tensor sums, Tensor count, float eps, bool relu, "
    "float slope=0.0) -> Tensor",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def on_gpu(name: str, x: int, plain: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled kernel where the backend has one for the type of argument number x, else ``plain``."""

    def run(*arguments: Any) -> Any:
        device, dtype = arguments[x].device, arguments[x].dtype
        there = backend(device, dtype) if dtype in TYPES else None
        return (getattr(there, name) if isinstance(there, Library) else plain)(*arguments)

    return run


for _name, _x in (("statistics", 0), ("combine", 0), ("apply", 0), ("backward_reduce", 1), ("backward_apply", 1)):
    LIBRARY.impl(f"norm_{_name}", getattr(by_cpu, _name), "CPU")
    LIBRARY.impl(f"norm_{_name}", on_gpu(f"norm_{_name}", _x, getattr(by_torch, _name)), "CUDA")


def _fake_statistics(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(2 * x.shape[1] + 1, dtype=by_cpu.statistics_dtype(x))


def _fake_combine(every: Tensor) -> Tensor:
    return every.new_empty(every.shape[1])


def _fake_apply(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_backward_reduce(
    grad: Tensor, x: Tensor, out: Tensor | None, mean: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    relu = rest[4]
    return mean.new_empty(2 * x.shape[1]), torch.empty_like(x) if relu and out is not None else x.new_empty(0)


def _fake_backward_apply(grad: Tensor, x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


for _name, _shapes in (
    ("statistics", _fake_statistics),
    ("combine", _fake_combine),
    ("apply", _fake_apply),
    ("backward_reduce", _fake_backward_reduce),
    ("backward_apply", _fake_backward_apply),
):
    torch.library.register_fake(f"laconv::norm_{_name}", _shapes, lib=LIBRARY)
