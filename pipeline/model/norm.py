"""Batch normalisation in float32, over the joint batch of all processes.

`nn.BatchNorm2d` breaks when an engine casts parameters but not buffers, and `nn.SyncBatchNorm` refuses CPU tensors;
per-process statistics would make the result depend on the number of processes. This layer has none of the three.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.precision import KeepFloat32


def joint_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class BatchNorm(KeepFloat32):
    """Normalises (B, C, ...) over all dimensions but the second; returns the input's type.

    In training the statistics are those of all processes of the default group (one all-reduce forward, one backward),
    so N processes give the outputs, input gradients and running statistics of one process on the joint batch.
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

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, momentum={self.momentum}"

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
            if joint_processes() > 1:
                return self._joint(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def _joint(self, x: Tensor) -> Tensor:
        out, mean, var, count = _JointBatchNorm.apply(x, self.weight, self.bias, self.running_mean, self.eps)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1).clamp_min(1)), self.momentum)
        return out


class _JointBatchNorm(torch.autograd.Function):
    """Batch normalisation whose sums, forward and backward, run over all processes."""

    @staticmethod
    def forward(ctx, x, weight, bias, shift, eps):  # type: ignore[no-untyped-def]
        # Sums of x - shift, not of x: E[x^2] - E[x]^2 cancels badly in float32 where the mean is large against the
        # spread. The running mean is near the mean and the same on every process.
        channels, dims = x.shape[1], [d for d in range(x.dim()) if d != 1]
        broad = [1, channels, *[1] * (x.dim() - 2)]
        values = x.to(weight.dtype)
        shift = shift.clone()
        centred = values - shift.view(broad)
        count = values.new_full((1,), values.numel() // channels)
        sums = torch.cat([centred.sum(dims), centred.square().sum(dims), count])
        dist.all_reduce(sums)
        first, second, total = sums[:channels], sums[channels:-1], sums[-1]
        offset = first / total
        var = (second / total - offset.square()).clamp_min_(0)
        mean, scale = shift + offset, torch.rsqrt(var + eps)
        normal = (values - mean.view(broad)) * scale.view(broad)
        ctx.save_for_backward(x, mean, scale, weight, total)
        ctx.mark_non_differentiable(mean, var, total)
        return (normal * weight.view(broad) + bias.view(broad)).to(x.dtype), mean, var, total

    @staticmethod
    def backward(ctx, grad, *_):  # type: ignore[no-untyped-def]
        x, mean, scale, weight, total = ctx.saved_tensors
        channels, dims = x.shape[1], [d for d in range(x.dim()) if d != 1]
        broad = [1, channels, *[1] * (x.dim() - 2)]
        upper = grad.to(weight.dtype)
        normal = (x.to(weight.dtype) - mean.view(broad)) * scale.view(broad)
        grad_bias, grad_weight = upper.sum(dims), (upper * normal).sum(dims)
        sums = torch.cat([grad_bias, grad_weight])
        dist.all_reduce(sums)
        sums = sums / total
        grad_x = upper - sums[:channels].view(broad) - normal * sums[channels:].view(broad)
        return (grad_x * (weight * scale).view(broad)).to(x.dtype), grad_weight, grad_bias, None, None
