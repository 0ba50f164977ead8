"""The statistics of a batch that is distributed over all processes."""

from __future__ import annotations

from torch import Tensor

from laconvnet.pipeline.distributed import stack, world_size


def global_statistics(own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (C,) of the global batch and its number of values a channel, a scalar, from each process's own.

    ``own`` (2 C + 1) holds this process's means, variances (by its count) and count. Combined like this they are exact
    and do not cancel (Chan, Golub and LeVeque 1983).
    """
    channels = len(own) // 2
    if world_size() == 1:
        return own[:channels], own[channels:-1], own[-1]
    means, variances, counts = stack(own).split([channels, channels, 1], 1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    return mean, (counts * (variances + (means - mean).square())).sum(0) / total, total
