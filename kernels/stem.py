"""The operators of the stem: a 1x1 convolution of the image, then the maximum of 2 x 2 pixels.

    laconv::stem           image (B, 3, 2h, 2w), weight (16, 3, 1, 1), bias (16,) -> (B, 16, h, w), channels last
    laconv::stem_backward  grad (B, 16, h, w), image, weight, bias -> gradients of weight and bias, float32

The image is of the type of weight and bias or float32, and counts as rounded to that. The convolution's result, the
largest map that there would be, is never written, nor which of its pixels were taken: a pass reads the image and writes
the result, or reads the image and the gradient. `stem` is differentiable but for the image.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from laconvnet.kernels.backend import backend
from laconvnet.kernels.cuda import Library
from laconvnet.kernels.cuda.stem import takes
from laconvnet.kernels.formats import channels_last
from laconvnet.kernels.norm import LIBRARY

__all__ = ["stem", "takes"]

for _schema in (
    "stem(Tensor image, Tensor weight, Tensor bias) -> Tensor",
    "stem_backward(Tensor grad, Tensor image, Tensor weight, Tensor bias) -> (Tensor, Tensor)",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def stem(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """image (B, 3, 2h, 2w), weight (16, 3, 1, 1), bias (16,) -> (B, 16, h, w), channels last."""
    found: Tensor = Stem.apply(image, weight, bias)  # type: ignore[no-untyped-call]
    return found


class Stem(torch.autograd.Function):
    """`stem` with the gradients of weight and bias."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """As `stem`: image (B, 3, H, W), weight (16, 3, 1, 1) and bias (16,) -> (B, 16, h, w)."""
        ctx.save_for_backward(image, weight, bias)
        found: Tensor = torch.ops.laconv.stem(image, weight, bias)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        """Of weight (16, 3, 1, 1) and bias (16,), from that of the result, (B, 16, h, w)."""
        image, weight, bias = ctx.saved_tensors
        of_weight, of_bias = torch.ops.laconv.stem_backward(grad, image, weight, bias)
        return None, of_weight.to(weight.dtype), of_bias.to(bias.dtype)


def _plain(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return channels_last(F.max_pool2d(F.conv2d(image.to(weight.dtype), weight, bias), 2))


def _plain_backward(grad: Tensor, image: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    aten, image = torch.ops.aten, image.to(weight.dtype)
    wide, square = F.conv2d(image, weight, bias), ([2, 2], [2, 2], [0, 0], [1, 1], False)
    _, taken = aten.max_pool2d_with_indices(wide, *square)
    above = aten.max_pool2d_with_indices_backward(grad, wide, *square, taken)
    sizes = ([len(bias)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, True])
    _, of_weight, of_bias = aten.convolution_backward(above, image, weight, *sizes)
    return of_weight.float(), of_bias.float()


def _on_gpu(name: str, plain: Any) -> Any:
    """The compiled kernel where the backend has one, else in PyTorch's operators."""

    def run(*arguments: Any) -> Any:
        image, weight, _ = arguments[-3:]
        fits = takes(image.dtype, weight.dtype, image.shape[1], len(weight))
        there = backend(image.device, weight.dtype) if fits else None
        found = getattr(there, name)(*arguments) if isinstance(there, Library) else None
        return plain(*arguments) if found is None else found

    return run


for _name, _by_torch in (("stem", _plain), ("stem_backward", _plain_backward)):
    LIBRARY.impl(_name, _by_torch, "CPU")
    LIBRARY.impl(_name, _on_gpu(_name, _by_torch), "CUDA")


def _fake(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    batch, _, height, width = image.shape
    return channels_last(weight.new_empty(batch, len(weight), height // 2, width // 2))


def _fake_backward(grad: Tensor, image: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    of_weight, of_bias = (each.new_empty(each.shape, dtype=torch.float32) for each in (weight, bias))
    return of_weight, of_bias


torch.library.register_fake("laconv::stem", _fake, lib=LIBRARY)
torch.library.register_fake("laconv::stem_backward", _fake_backward, lib=LIBRARY)
