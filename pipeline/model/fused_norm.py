"""Batch norm, sum and ReLU in one pass over the map, by NVIDIA's apex: its extension `syncbn`, kernels for NHWC maps.

Of apex's batch norms this is the one that keeps our contract: statistics in float32, exchanged by us, so that they are
those of all processes on any number of machines. `groupbn` and `cudnn_gbn` take half precision alone and join the GPUs
of one machine. apex dropped its own Python layer around these kernels; the extension is still built with the Adam's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from laconvnet.pipeline.model.batch_statistics import global_statistics, global_sums

EXTENSION = "syncbn"
DTYPES = (torch.float16, torch.float32)  # the kernels know no bfloat16


def takes(x: Tensor, beside: Tensor | None) -> bool:
    """Whether the kernels can work on this map and what is added to it: (B, C, H, W), channels last."""
    return (
        x.dim() == 4
        and x.dtype in DTYPES
        and x.shape[1] < x.numel() < 2**31  # more than one value a channel; the kernels count in 32 bits
        and all(
            each.is_contiguous(memory_format=torch.channels_last) and each.dtype == x.dtype and each.shape == x.shape
            for each in (x, x if beside is None else beside)
        )
    )


class FusedBatchNorm(torch.autograd.Function):
    """relu(beside + BN(x)), ``beside`` and the ReLU if wanted.

    weight and bias (C,) float32, x and beside (B, C, H, W) as `takes` wants them -> the output (B, C, H, W), and of
    the global batch mean and variance (C,) and the number of values a channel, a scalar.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, eps: float, x: Tensor, beside: Tensor | None, relu: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        import syncbn

        rows = _rows(x)
        mean, var = syncbn.welford_mean_var_c_last(rows)
        # Filled on the device: a number that is copied there would be waited for, at every norm.
        mean, var, total = global_statistics(torch.cat([mean, var, mean.new_full((1,), rows.numel() // len(weight))]))
        scale = torch.rsqrt(var + eps)
        out = syncbn.batchnorm_forward_c_last(
            rows, None if beside is None else _rows(beside), mean, scale, weight, bias, relu
        )
        ctx.save_for_backward(x, beside, mean, scale, weight, bias, total)
        ctx.relu = relu
        ctx.mark_non_differentiable(mean, var, total)
        return _map(out), mean, var, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, None, Tensor, Tensor | None, None]:
        """The gradients of weight and bias (C,), x and beside (B, C, H, W), from that of the output, (B, C, H, W)."""
        import syncbn

        x, beside, mean, scale, weight, bias, total = ctx.saved_tensors
        rows, grad = _rows(x), _rows(grad.contiguous(memory_format=torch.channels_last))
        if ctx.relu:  # where the output was positive, which is computed again
            added = None if beside is None else _rows(beside)
            grad = syncbn.relu_bw_c_last(grad, rows, added, mean, scale, weight, bias)
        *_, grad_weight, grad_bias = syncbn.reduce_bn_c_last(grad, rows, mean, scale, weight)
        sums = global_sums(torch.cat([grad_bias, grad_weight]))
        of_grad, of_grad_and_x = sums[: len(weight)], sums[len(weight) :] / scale
        grad_x = syncbn.batchnorm_backward_c_last(
            grad, rows, mean, scale, weight, of_grad, of_grad_and_x, total.int().view(1)
        )
        return grad_weight, grad_bias, None, _map(grad_x), None if beside is None else _map(grad), None


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W), channels last, as the kernels count it: (B, H, W, C). The same memory."""
    return x.permute(0, 2, 3, 1)


def _map(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2)
