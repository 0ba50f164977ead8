"""Batch normalisation in float32, over the global batch of all processes.

`nn.BatchNorm2d` breaks when an engine casts parameters but not buffers, and `nn.SyncBatchNorm` refuses CPU tensors;
per-process statistics would make the result depend on the number of processes. This layer has none of the three.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.kernels.packed import packed_rows
from laconvnet.pipeline.distributed import world_size
from laconvnet.pipeline.model import fused_norm, joint_norm
from laconvnet.pipeline.model.batch_statistics import global_statistics
from laconvnet.pipeline.model.packed_condition import Norm
from laconvnet.pipeline.model.precision import KeepFloat32
from laconvnet.pipeline.model.recompute import recomputing


class BatchNorm(KeepFloat32):
    """Normalises (B, C, ...) over all dimensions but the second; returns the input's type.

    `norm(x, beside, relu=True)` is relu(beside + BN(x)), the end of a residual branch; numbers below zero are then
    multiplied by `slope`. `norm(packed, packing=s)` is relu(BN(relu(packed))), unpacked: (B, s*s*C, h, w), as
    `kernels.packed` has it -> (B, C, h*s, w*s), channels last.

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
        self.as_on_gpu = False  # in training, as on a GPU whatever the device: to count what moves there

    def freeze(self) -> None:
        """From now on training, too, uses the running statistics as they are, and weight and bias stay."""
        self.frozen = True
        self.requires_grad_(False)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, momentum={self.momentum}"

    def forward(
        self, x: Tensor, beside: Tensor | None = None, relu: bool = False, packing: int = 0, slope: float = 0.0
    ) -> Tensor:
        if packing:
            return self.of_packed(x, packing).condition(x)
        if self.fused and not slope and self.training and not self.frozen and fused_norm.takes(x, beside):
            return self._joint(fused_norm.FusedBatchNorm, x, beside, relu)
        if self._by_passes(x) and joint_norm.takes(x, beside):
            return self._joint(joint_norm.JointBatchNorm, x, beside, slope if relu else None, self._on_gpu(x))
        out = self.normalised(x)
        if beside is not None:
            out = beside + out
        if not relu:
            return out
        return F.leaky_relu(out, slope) if slope else F.relu(out)

    def takes_packed(self, x: Tensor, values: int) -> bool:
        """Whether a map of the device and type of x, of any shape, with so many values a channel, best stays packed.

        That is on a GPU, where passes cost what they move. Statistics of one value are PyTorch's to refuse.
        """
        alike = (x.dtype == torch.float64) == (self.weight.dtype == torch.float64)
        one = self.training and not self.frozen and world_size() == 1 and values == 1
        return self._on_gpu(x) and alike and not one

    def of_packed(self, packed: Tensor, packing: int) -> Norm:
        """The norm with the statistics it is to be applied with to this map, (B, s*s*C, h, w), of which it learns."""
        channels = (self.weight, self.bias)
        if not self.training or self.frozen:
            return Norm(self.running_mean, self.running_var, *channels, None, self.eps, packing)
        with torch.no_grad():
            own = torch.ops.laconv.norm_statistics(packed_rows(packed, self.channels), True)
            mean, var, count = global_statistics(own.to(self.weight.dtype))
        self.learn(mean, var, count)
        return Norm(mean, var, *channels, count, self.eps, packing)

    def by_passes_on_gpu(self, x: Tensor) -> bool:
        """Whether in training a map like x (B, C, ...) is best normalised by the passes of `kernels.norm` on a GPU."""
        return self._by_passes(x) and self._on_gpu(x)

    def normalised(self, x: Tensor) -> Tensor:
        """BN(x) alone, (B, C, ...) -> the same shape and type; raises as the class does."""
        if not self.training or self.frozen:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        if self._by_passes(x):
            return self._joint(joint_norm.JointBatchNorm, x, None, None, self._on_gpu(x))
        if not recomputing():
            self.num_batches_tracked += 1
        mean, var = self.running_mean, self.running_var
        if recomputing():  # must not count twice
            mean, var = mean.clone(), var.clone()
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)

    def _by_passes(self, x: Tensor) -> bool:
        """Whether by `joint_norm`: always but for one process on a CPU, where PyTorch's layer is as good or better, and
        for one value a channel of one process, which has no statistics.
        """
        if not self.training or self.frozen:
            return False
        return world_size() > 1 or (self._on_gpu(x) and x.numel() > x.shape[1])

    def _on_gpu(self, x: Tensor) -> bool:
        return self.as_on_gpu or x.is_cuda

    def _joint(self, function: type[torch.autograd.Function], *inputs: Any) -> Tensor:
        result: tuple[Tensor, Tensor, Tensor, Tensor] = function.apply(self.weight, self.bias, self.eps, *inputs)
        out, *statistics = result
        self.learn(*statistics)
        return out

    @torch.no_grad()
    def learn(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Takes the statistics of a global batch, (C,), (C,) and a scalar, into the running ones."""
        if recomputing():  # must not count twice
            return
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1).clamp_min(1)), self.momentum)
