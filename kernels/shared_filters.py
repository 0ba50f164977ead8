"""LaConv with one filter for all pixels of an image (v2 Tab. 10 "language only"): an ordinary grouped convolution.

filters = cond W + b with cond (B, M, 1, 1) is one set of k*k*g numbers an image; no map of them is ever made. Every
channel of every image becomes a group of one convolution, in the type that is accumulated in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.kernels.backend import Backend
from laconvnet.kernels.plain.taps import accumulation_dtype
from laconvnet.kernels.recipe import Recipe


def forward(backend: Backend, x: Tensor, cond: Tensor, recipe: Recipe) -> Tensor:
    """x (B, C, H, W), cond (B, M, 1, 1) -> (B, C, H, W) in the type and memory format of x."""
    if not x.numel():
        return torch.empty_like(x)
    kernels = _kernels(backend, cond, recipe, x.shape[1])
    out = F.conv2d(_one_image(x), kernels, padding=recipe.kernel_size // 2, groups=len(kernels))
    return torch.empty_like(x).copy_(out.view(x.shape))


def backward(
    backend: Backend, grad: Tensor, x: Tensor, cond: Tensor, recipe: Recipe, wanted: Sequence[bool] = (True,) * 4
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, cond, weight and bias from that of the output, (B, C, H, W); each has its tensor's shape.

    Those of weight and bias are in at least float32; that of bias can be had without a bias, too. What is not `wanted`
    is not computed, but None.
    """
    weight, dtype = recipe.weight, accumulation_dtype(x.dtype)
    if not x.numel() or not any(wanted):
        likes = (x, cond, weight, weight.new_empty(len(weight)))
        grads = (torch.zeros_like(like) if one else None for like, one in zip(likes, wanted, strict=True))
        grad_x, grad_cond, grad_weight, grad_bias = grads
        return grad_x, grad_cond, grad_weight, grad_bias
    kernels = _kernels(backend, cond, recipe, x.shape[1])
    reach = recipe.kernel_size // 2
    found, grad_kernels, _ = torch.ops.aten.convolution_backward(
        _one_image(grad),
        _one_image(x),
        kernels,
        None,
        [1, 1],
        [reach, reach],
        [1, 1],
        False,
        [0, 0],
        len(kernels),
        [wanted[0], any(wanted[1:]), False],
    )
    grad_x = torch.empty_like(x).copy_(found.view(x.shape)) if wanted[0] else None
    if grad_kernels is None:
        return grad_x, None, None, None
    by_group = grad_kernels.reshape(len(x), *_split(x.shape[1], recipe), recipe.kernel_size**2)
    by_tap = by_group.sum(1 if recipe.interleaved else 2).transpose(1, 2)  # (B, k*k, g)
    grad_filters = by_tap.reshape(len(x), -1, 1, 1)
    recipe.drop_(backend, grad_filters, slice(None))
    upper = grad_filters.flatten(1)
    return (
        grad_x,
        torch.empty_like(cond).copy_((upper @ weight.to(dtype)).view(cond.shape)) if wanted[1] else None,
        upper.t() @ cond.flatten(1).to(dtype) if wanted[2] else None,
        upper.sum(0) if wanted[3] else None,
    )


def _kernels(backend: Backend, cond: Tensor, recipe: Recipe, channels: int) -> Tensor:
    """(B, M, 1, 1) -> (B*C, 1, k, k): the filters of every image, dropped, one set a channel."""
    dtype, taps = accumulation_dtype(cond.dtype), recipe.kernel_size**2
    bias = None if recipe.bias is None else recipe.bias.to(dtype)
    filters = F.linear(cond.flatten(1).to(dtype), recipe.weight.to(dtype), bias)
    recipe.drop_(backend, filters[:, :, None, None], slice(None))
    by_group = filters.view(len(filters), taps, recipe.groups).transpose(1, 2)  # (B, g, k*k)
    shape = (len(filters), *_split(channels, recipe), taps)
    expanded = by_group.unsqueeze(1 if recipe.interleaved else 2).expand(shape)
    return expanded.reshape(-1, 1, recipe.kernel_size, recipe.kernel_size)


def _one_image(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (1, B*C, H, W): images become channels."""
    return x.to(accumulation_dtype(x.dtype)).reshape(1, -1, *x.shape[2:])


def _split(channels: int, recipe: Recipe) -> tuple[int, int]:
    share = channels // recipe.groups
    return (share, recipe.groups) if recipe.interleaved else (recipe.groups, share)
