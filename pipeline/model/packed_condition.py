"""The condition of LaConv from the packed map of the convolution before it, by the passes of `kernels.packed`.

A packed map is (B, s*s*M, h, w) as `kernels.packed` has it; the condition is relu(BN(relu(packed))), (B, M, h*s, w*s).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from laconvnet import kernels
from laconvnet.pipeline.model.batch_statistics import global_sums


class Norm(NamedTuple):
    """A batch norm of M channels as it is applied to one packed map. Statistics are constants to the gradients, which
    are those of statistics of the batch where its number of values a channel, `total`, is given.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor
    total: Tensor | None
    eps: float
    packing: int

    def condition(self, packed: Tensor) -> Tensor:
        """(B, s*s*M, h, w) -> (B, M, h*s, w*s), channels last."""
        found: Tensor = Unpack.apply(packed, *self)  # type: ignore[no-untyped-call]
        return found

    def gradients(self, grad: Tensor, packed: Tensor, affine: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Of packed, and with `affine` of weight and bias, from that of the condition, (B, M, h*s, w*s)."""
        channels, sizes = self[:4], self[5:]
        own = None
        if affine or self.total is not None:
            own = torch.ops.laconv.unpack_backward_reduce(grad, packed, *channels, *sizes)
        if self.total is None or own is None:
            sums, count = self.mean.new_zeros(2 * len(self.mean)), self.mean.new_ones(1)
        else:
            sums, count = global_sums(own), self.total
        of_packed = torch.ops.laconv.unpack_backward_apply(grad, packed, *channels, sums, count, *sizes)
        of_bias, of_weight = (None, None) if own is None else own.chunk(2)
        return of_packed, of_weight, of_bias


class Unpack(torch.autograd.Function):
    """packed (B, s*s*M, h, w) and the fields of `Norm` -> the condition (B, M, h*s, w*s)."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, *fields: Any) -> Tensor:
        norm = Norm(*fields)
        ctx.save_for_backward(packed, *norm[:5])
        ctx.sizes = norm[5:]
        found: Tensor = torch.ops.laconv.unpack(packed, *norm[:4], *ctx.sizes)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of packed and, of the fields, of weight and bias (M,), from that of the condition."""
        packed, *saved = ctx.saved_tensors
        affine = any(ctx.needs_input_grad[3:5])
        of_packed, of_weight, of_bias = Norm(*saved, *ctx.sizes).gradients(grad, packed, affine)
        return of_packed, None, None, of_weight, of_bias, None, None, None


def laconv(
    x: Tensor,
    packed: Tensor,
    norm: Norm,
    weight: Tensor,
    bias: Tensor,
    kernel_size: int,
    groups: int,
    dropout_p: float,
    keys: Tensor | None,
    interleaved: bool,
) -> Tensor:
    """`kernels.laconv` of x (B, C, H, W) and the condition that is packed, which is made again for the gradients.

    x and packed share device and, but under autocast, type.
    """
    x, packed, weight, bias = kernels.in_dtype_taken(x, packed, weight, bias)
    recipe = (kernel_size, groups, dropout_p, keys, interleaved)
    found: Tensor = PackedLaConv.apply(x, packed, weight, bias, *recipe, *norm)  # type: ignore[no-untyped-call]
    return found


class PackedLaConv(torch.autograd.Function):
    """x (B, C, H, W), packed (B, s*s*M, h, w), and what follows in `laconv` -> (B, C, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
        kernel_size, groups, dropout_p, keys, interleaved = rest[:5]
        norm = Norm(*rest[5:])
        ctx.before_keys, ctx.interleaved = (kernel_size, groups, dropout_p), interleaved
        ctx.save_for_backward(x, packed, weight, bias, keys, *norm[:5])
        ctx.sizes = norm[5:]
        found: Tensor = torch.ops.laconv.laconv_packed(x, packed, *norm[:4], *ctx.sizes, weight, bias, *rest[:5])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, packed, weight, bias, and the norm's weight and bias, from the output's, (B, C, H, W)."""
        x, packed, weight, bias, keys, *saved = ctx.saved_tensors
        norm, needed = Norm(*saved, *ctx.sizes), ctx.needs_input_grad
        affine, recipe = any(needed[11:13]), (*ctx.before_keys, keys, ctx.interleaved)
        wanted = [needed[0], needed[1] or affine, needed[2], needed[3]]
        condition = torch.ops.laconv.unpack(packed, *norm[:4], *ctx.sizes)
        grads = torch.ops.laconv.laconv_backward(grad, x, condition, weight, bias, *recipe, wanted)
        of_x, of_condition, of_weight, of_bias = (
            one if asked else None for one, asked in zip(grads, wanted, strict=True)
        )
        of_norm = (None,) * 3 if of_condition is None else norm.gradients(of_condition, packed, affine)
        filters = (of_x, of_norm[0], of_weight, of_bias)
        return *filters, *(None,) * 7, *of_norm[1:], None, None, None
