"""The statistics of a batch that is distributed over all processes."""

from __future__ import annotations

import torch
from torch import Tensor

import laconvnet.kernels.norm  # noqa: F401  (registers the operators)
from laconvnet.pipeline.distributed import stack, world_size


def global_sums(own: Tensor) -> Tensor:
    """The sums over all processes, (n,), of each one's own."""
    return own if world_size() == 1 else stack(own).sum(0)


def global_statistics(own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (C,) of the global batch and its number of values a channel, a scalar, from each process's own.

    ``own`` (2 C + 1) holds this process's means, variances (by its count) and count.
    """
    channels = len(own) // 2
    if world_size() > 1:
        own = torch.ops.laconv.norm_combine(stack(own))
    return own[:channels], own[channels:-1], own[-1]
