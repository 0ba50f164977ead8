"""A double of PyTorch's CUDA-only batch norm functions: their contract (nn.SyncBatchNorm uses them) on a CPU.

They take maps of a half type beside float32 for the channels, and refuse tensors of another layout than the map's.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _broad(vector: Tensor, x: Tensor) -> Tensor:
    assert vector.shape == (x.shape[1],)
    assert vector.dtype == _wide(x)
    return vector.view([1, -1, *[1] * (x.dim() - 2)])


def _dims(x: Tensor) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != 1]


def batch_norm_update_stats(x: Tensor, running_mean: None, running_var: None, momentum: float) -> tuple[Tensor, Tensor]:
    assert x.numel()
    values = x.to(_wide(x))
    return values.mean(_dims(x)), values.var(_dims(x), correction=0)


def batch_norm_elemt(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, eps: float) -> Tensor:
    assert x.numel()
    out = (x.to(_wide(x)) - _broad(mean, x)) * _broad(invstd * weight, x) + _broad(bias, x)
    return out.to(x.dtype)


def batch_norm_backward_reduce(
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor, input_g: bool, weight_g: bool, bias_g: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    assert x.numel()
    assert (grad.dtype, grad.stride()) == (x.dtype, x.stride())
    above = grad.to(_wide(x))
    sum_dy = above.sum(_dims(x))
    sum_dy_xmu = (above * (x.to(_wide(x)) - _broad(mean, x))).sum(_dims(x))
    sums = (sum_dy, sum_dy_xmu) if input_g else (None, None)
    return *sums, sum_dy_xmu * invstd if weight_g else None, sum_dy if bias_g else None


def batch_norm_backward_elemt(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    count: Tensor,
) -> Tensor:
    assert x.numel()
    assert (grad.dtype, grad.stride()) == (x.dtype, x.stride())
    assert (count.dtype, count.dim()) == (torch.int32, 1)
    total = count.sum()
    level = _broad(sum_dy / total, x)
    slope = _broad(invstd.square() * sum_dy_xmu / total, x)
    centred = x.to(_wide(x)) - _broad(mean, x)
    return ((grad.to(_wide(x)) - level - centred * slope) * _broad(invstd * weight, x)).to(x.dtype)
