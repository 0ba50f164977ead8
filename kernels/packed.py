"""The condition as the convolution before it leaves it, packed, and the passes between that and LaConv.

A packed map has shape (B, s*s*M, h, w), channel (i*s + j) * M + m of a cell being channel m of its pixel (i, j):
channels last, a pixel's channels lie together. It stands for the map (B, M, h*s, w*s) that is the condition,
relu(BN(relu(packed))).

    laconv::unpack                  packed, statistics of all -> the condition
    laconv::unpack_backward_reduce  grad, packed -> own sums (2 M): gradients of bias and weight
    laconv::unpack_backward_apply   grad, packed, sums and count of all -> gradient of packed
    laconv::laconv_packed           laconv of x and the condition, which is not written where a kernel reads it packed

The own statistics are those of `laconv::norm_statistics` over `packed_rows`, of relu. Types, sums and their order are
as in `kernels.norm`; grad is that of the condition. Bytes an element of a map of 2 bytes: 2 + 4 forward, 4 + 6
backward. Nothing here is differentiable: `pipeline.model.packed_condition` is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laconvnet.kernels import fused
from laconvnet.kernels.backend import backend
from laconvnet.kernels.cuda.fused import reads_packed
from laconvnet.kernels.formats import channels_last
from laconvnet.kernels.norm import LIBRARY, on_gpu
from laconvnet.kernels.operator import in_input_types
from laconvnet.kernels.plain import norm as by_cpu
from laconvnet.kernels.plain import norm_cuda as by_torch
from laconvnet.kernels.plain.packed import Passes, unpacked_shape
from laconvnet.kernels.plain.packed import rows as packed_rows
from laconvnet.kernels.recipe import PackedNorm, Recipe

__all__ = ["PackedNorm", "laconv_packed", "packed_rows", "reads_packed"]

_CHANNELS = "Tensor mean, Tensor var, Tensor norm_weight, Tensor norm_bias"
for _schema in (
    f"unpack(Tensor packed, {_CHANNELS}, float eps, int packing) -> Tensor",
    f"unpack_backward_reduce(Tensor grad, Tensor packed, {_CHANNELS}, float eps, int packing) -> Tensor",
    f"unpack_backward_apply(Tensor grad, Tensor packed, {_CHANNELS}, Tensor sums, Tensor count, float eps, "
    "int packing) -> Tensor",
    f"laconv_packed(Tensor x, Tensor packed, {_CHANNELS}, float eps, int packing, Tensor weight, Tensor? bias, "
    "int kernel_size, int groups, float dropout_p, Tensor? keys, bool interleaved) -> Tensor",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def laconv_packed(x: Tensor, packed: Tensor, *rest: Any) -> Tensor:
    """x (B, C, H, W), packed (B, s*s*M, H/s, W/s), the fields of `PackedNorm` and of `Recipe` -> (B, C, H, W)."""
    fields = len(PackedNorm._fields)
    norm, recipe = PackedNorm(*rest[:fields]), Recipe(*rest[fields:]).on_its_device()
    return fused.forward(backend(x.device, x.dtype), x, packed, recipe, norm)


for _name, _first in (("unpack", 0), ("unpack_backward_reduce", 1), ("unpack_backward_apply", 1)):
    LIBRARY.impl(_name, getattr(Passes(by_cpu), _name), "CPU")
    LIBRARY.impl(_name, on_gpu(_name, _first, getattr(Passes(by_torch), _name)), "CUDA")
for _device in ("CPU", "CUDA"):
    LIBRARY.impl("laconv_packed", in_input_types(laconv_packed), _device)


def _fake_unpack(packed: Tensor, *rest: Any) -> Tensor:
    return channels_last(packed.new_empty(unpacked_shape(packed, rest[-1])))


def _fake_reduce(grad: Tensor, packed: Tensor, mean: Tensor, *_: Any) -> Tensor:
    return mean.new_empty(2 * len(mean))


def _fake_apply(grad: Tensor, packed: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(packed)


def _fake_laconv(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


for _name, _shapes in (
    ("unpack", _fake_unpack),
    ("unpack_backward_reduce", _fake_reduce),
    ("unpack_backward_apply", _fake_apply),
    ("laconv_packed", _fake_laconv),
):
    torch.library.register_fake(f"laconv::{_name}", _shapes, lib=LIBRARY)
