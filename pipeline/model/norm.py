"""Batch normalisation in float32, over the global batch of all processes.

`nn.BatchNorm2d` breaks when an engine casts parameters but not buffers, and `nn.SyncBatchNorm` refuses CPU tensors;
per-process statistics would make the result depend on the number of processes. This layer has none of the three.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.pipeline.distributed import stack, world_size
from laconvnet.pipeline.model import fused_norm
from laconvnet.pipeline.model.batch_statistics import global_statistics
from laconvnet.pipeline.model.precision import KeepFloat32
from laconvnet.pipeline.model.recompute import recomputing


class BatchNorm(KeepFloat32):
    """Normalises (B, C, ...) over all dimensions but the second; returns the input's type.

    `norm(x, beside, relu=True)` is relu(beside + BN(x)), the end of a residual branch.

    In training the statistics are those of all processes of the default group (one exchange forward, one backward),
    so N processes give the outputs, input gradients and running statistics of one process on the global batch.
    Parameters and statistics are never held below float32, whatever the module is cast to. Raises ValueError (from
    PyTorch) when there is a single value per channel to train on.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.channels, self.eps, self.momentum = channels, eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))
        self.frozen = False
        self.fused = False  # in training, by `fused_norm` where it takes the map

    def freeze(self) -> None:
        """From now on training, too, uses the running statistics as they are, and weight and bias stay."""
        self.frozen = True
        self.requires_grad_(False)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, momentum={self.momentum}"

    def forward(self, x: Tensor, beside: Tensor | None = None, relu: bool = False) -> Tensor:
        if self.fused and self.training and not self.frozen and fused_norm.takes(x, beside):
            return self._joint(fused_norm.FusedBatchNorm, x, beside, relu)
        out = self.normalised(x)
        if beside is not None:
            out = beside + out
        return F.relu(out) if relu else out

    def normalised(self, x: Tensor) -> Tensor:
        """BN(x) alone, (B, C, ...) -> the same shape and type; raises as the class does."""
        if not self.training or self.frozen:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if world_size() > 1:
            return self._joint(_JointBatchNorm, x)
        if not recomputing():
            self.num_batches_tracked += 1
        mean, var = self.running_mean, self.running_var
        if recomputing():  # must not count twice
            mean, var = mean.clone(), var.clone()
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)

    def _joint(self, function: type[torch.autograd.Function], *inputs: Any) -> Tensor:
        result: tuple[Tensor, Tensor, Tensor, Tensor] = function.apply(self.weight, self.bias, self.eps, *inputs)
        out, mean, var, count = result
        if recomputing():
            return out
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1).clamp_min(1)), self.momentum)
        return out


class _JointBatchNorm(torch.autograd.Function):
    """Batch normalisation whose statistics, forward and backward, are those of all processes together."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, eps: float, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels, values = x.shape[1], x.to(weight.dtype)
        own = values.new_zeros(2 * channels + 1)
        if values.numel():
            own[:channels], own[channels:-1] = torch.batch_norm_update_stats(values, None, None, 0.0)
            own[-1] = values.numel() // channels
        mean, var, total = global_statistics(own)
        ctx.save_for_backward(x, mean, var, weight, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, total)
        # PyTorch's CPU kernels divide by the number of values: a process without any must not reach them.
        out = F.batch_norm(values, mean, var, weight, bias, False, 0.0, eps) if values.numel() else values
        return out.to(x.dtype), mean, var, total

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, None, Tensor]:
        x, mean, var, weight, total = ctx.saved_tensors
        channels, values = x.shape[1], x.to(weight.dtype)
        # As if the statistics were constants; what they add follows from the sums of all processes.
        grad_x, grad_weight, grad_bias = grad.to(weight.dtype), torch.zeros_like(weight), torch.zeros_like(weight)
        if values.numel():
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad_x, values, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
        sums = stack(torch.cat([grad_bias, grad_weight])).sum(0) / total
        scale = torch.rsqrt(var + ctx.eps)
        slope = -weight * scale.square() * sums[channels:]
        level = -weight * scale * sums[:channels] - slope * mean
        broad = [1, channels, *[1] * (x.dim() - 2)]
        grad_x = grad_x + torch.addcmul(level.view(broad), values, slope.view(broad))
        return grad_weight, grad_bias, None, grad_x.to(x.dtype)
