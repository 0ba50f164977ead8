"""The operators of namespace `laconv`, declared in Python so that they exist without a compiler and without a GPU.

The implementation in plain PyTorch serves every device: `small_maps` where the kernel covers much of the map, else
`reference`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels import reference, small_maps

LIBRARY = torch.library.Library("laconv", "DEF")
TAGS = (torch.Tag.pt2_compliant_tag,)

LIBRARY.define(
    "dynamic_conv(Tensor x, Tensor filters, int kernel_size, int groups, bool interleaved) -> Tensor", tags=TAGS
)
LIBRARY.define(
    "dynamic_conv_backward(Tensor grad, Tensor x, Tensor filters, int kernel_size, int groups, bool interleaved)"
    " -> (Tensor, Tensor)",
    tags=TAGS,
)
LIBRARY.define("seeded_dropout(Tensor x, Tensor seed, float p) -> Tensor", tags=TAGS)


def dynamic_conv(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
    way = small_maps if small_maps.fits(kernel_size, *x.shape[2:]) else reference
    return way.forward(x, filters, kernel_size, groups, interleaved)


def dynamic_conv_backward(
    grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
) -> tuple[Tensor, Tensor]:
    way = small_maps if small_maps.fits(kernel_size, *x.shape[2:]) else reference
    return way.backward(grad, x, filters, kernel_size, groups, interleaved)


def seeded_dropout(x: Tensor, seed: Tensor, p: float) -> Tensor:
    """Zeroes each element with probability p and scales the rest by 1 / (1 - p); the mask is a function of the seed."""
    generator = torch.Generator(device=x.device).manual_seed(int(seed))
    keep = torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1.0 - p, generator=generator)
    return x.mul(1.0 / (1.0 - p)).mul_(keep)


for _device in ("CPU", "CUDA"):
    LIBRARY.impl("dynamic_conv", dynamic_conv, _device)
    LIBRARY.impl("dynamic_conv_backward", dynamic_conv_backward, _device)
    LIBRARY.impl("seeded_dropout", seeded_dropout, _device)


@torch.library.register_fake("laconv::dynamic_conv", lib=LIBRARY)
def _(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("laconv::dynamic_conv_backward", lib=LIBRARY)
def _(
    grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(filters)


@torch.library.register_fake("laconv::seeded_dropout", lib=LIBRARY)
def _(x: Tensor, seed: Tensor, p: float) -> Tensor:
    return torch.empty_like(x)


def _save_inputs(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, filters, ctx.kernel_size, ctx.groups, ctx.interleaved = inputs
    ctx.save_for_backward(x, filters)


def _conv_gradient(ctx, grad):  # type: ignore[no-untyped-def]
    x, filters = ctx.saved_tensors
    grads = torch.ops.laconv.dynamic_conv_backward(grad, x, filters, ctx.kernel_size, ctx.groups, ctx.interleaved)
    return *(g if needed else None for g, needed in zip(grads, ctx.needs_input_grad, strict=False)), None, None, None


def _save_seed(ctx, inputs, output):  # type: ignore[no-untyped-def]
    _, seed, ctx.p = inputs
    ctx.save_for_backward(seed)


def _dropout_gradient(ctx, grad):  # type: ignore[no-untyped-def]
    # Dropout with a fixed mask is linear and its own transpose, so the seed is all that has to be kept.
    return torch.ops.laconv.seeded_dropout(grad, *ctx.saved_tensors, ctx.p), None, None


torch.library.register_autograd("laconv::dynamic_conv", _conv_gradient, setup_context=_save_inputs, lib=LIBRARY)
torch.library.register_autograd("laconv::seeded_dropout", _dropout_gradient, setup_context=_save_seed, lib=LIBRARY)
