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
from pipeline.model.recompute import recomputing


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
        self.frozen = False

    def freeze(self) -> None:
        """From now on training, too, uses the running statistics as they are, and weight and bias stay."""
        self.frozen = True
        self.requires_grad_(False)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, momentum={self.momentum}"

    def forward(self, x: Tensor) -> Tensor:
        training = self.training and not self.frozen
        if not training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if not recomputing():
            self.num_batches_tracked += 1
        if joint_processes() > 1:
            return self._joint(x)
        mean, var = self.running_mean, self.running_var
        if recomputing():  # must not count twice
            mean, var = mean.clone(), var.clone()
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)

    def _joint(self, x: Tensor) -> Tensor:
        out, mean, var, count = _JointBatchNorm.apply(x, self.weight, self.bias, self.eps)
        if recomputing():
            return out
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1).clamp_min(1)), self.momentum)
        return out


class _JointBatchNorm(torch.autograd.Function):
    """Batch normalisation whose statistics, forward and backward, are those of all processes together.

    Each process takes its own in one pass; combined, they are exact and do not cancel (Chan, Golub and LeVeque).
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):  # type: ignore[no-untyped-def]
        channels, values = x.shape[1], x.to(weight.dtype)
        own = values.new_zeros(2 * channels + 1)
        if values.numel():
            own[:channels], own[channels:-1] = torch.batch_norm_update_stats(values, None, None, 0.0)
            own[-1] = values.numel() // channels
        means, spreads, counts = _gather(own).split([channels, channels, 1], 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (counts * (spreads + (means - mean).square())).sum(0) / total
        ctx.save_for_backward(x, mean, var, weight, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, total)
        # PyTorch's CPU kernels divide by the number of values: a process without any must not reach them.
        out = F.batch_norm(values, mean, var, weight, bias, False, 0.0, eps) if values.numel() else values
        return out.to(x.dtype), mean, var, total

    @staticmethod
    def backward(ctx, grad, *_):  # type: ignore[no-untyped-def]
        x, mean, var, weight, total = ctx.saved_tensors
        channels, values = x.shape[1], x.to(weight.dtype)
        # As if the statistics were constants; what they add follows from the sums of all processes.
        grad_x, grad_weight, grad_bias = grad.to(weight.dtype), torch.zeros_like(weight), torch.zeros_like(weight)
        if values.numel():
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad_x, values, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
        sums = _gather(torch.cat([grad_bias, grad_weight])).sum(0) / total
        scale = torch.rsqrt(var + ctx.eps)
        slope = -weight * scale.square() * sums[channels:]
        level = -weight * scale * sums[:channels] - slope * mean
        broad = [1, channels, *[1] * (x.dim() - 2)]
        grad_x = grad_x + torch.addcmul(level.view(broad), values, slope.view(broad))
        return grad_x.to(x.dtype), grad_weight, grad_bias, None


def _gather(own: Tensor) -> Tensor:
    """The vectors of all processes, stacked. Over gloo this takes half the time of an all-reduce of so few numbers."""
    every = [torch.empty_like(own) for _ in range(joint_processes())]
    dist.all_gather(every, own)
    return torch.stack(every)
