"""What `csrc/syncbn.cpp` of NVIDIA's apex promises of its kernels for NHWC maps, in PyTorch: for machines without them.

Statistics and sums are float32 vectors over the last dimension of contiguous maps; with maps of half precision the
weights are float32, else of the maps' type.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _check(*maps: Tensor | None, weight: Tensor | None = None) -> None:
    first = maps[0]
    assert first is not None
    for each in maps:
        assert each is None or (each.is_contiguous() and each.dtype == first.dtype and each.shape == first.shape)
    assert first.dtype in (torch.float16, torch.float32, torch.float64)
    assert weight is None or weight.dtype == (torch.float32 if first.dtype == torch.float16 else first.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float16 else x


def _sums(x: Tensor) -> Tensor:
    return x.flatten(0, -2).sum(0)


def welford_mean_var_c_last(x: Tensor) -> list[Tensor]:
    _check(x)
    values = _wide(x).flatten(0, -2)
    return [values.mean(0), values.var(0, correction=0)]


def _before_relu(x: Tensor, z: Tensor | None, mean: Tensor, scale: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    out = weight * (_wide(x) - mean) * scale + shift
    return out if z is None else out + _wide(z)


def batchnorm_forward_c_last(
    x: Tensor, z: Tensor | None, mean: Tensor, scale: Tensor, weight: Tensor, shift: Tensor, fuse_relu: bool
) -> Tensor:
    _check(x, z, weight=weight)
    out = _before_relu(x, z, mean, scale, weight, shift)
    return (out.clamp_min(0) if fuse_relu else out).to(x.dtype)


def relu_bw_c_last(
    grad: Tensor, x: Tensor, z: Tensor | None, mean: Tensor, scale: Tensor, weight: Tensor, shift: Tensor
) -> Tensor:
    _check(grad, x, z, weight=weight)
    return grad.masked_fill(_before_relu(x, z, mean, scale, weight, shift) <= 0, 0)


def reduce_bn_c_last(grad: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor) -> list[Tensor]:
    _check(grad, x, weight=weight)
    sum_dy, sum_dy_xmu = _sums(_wide(grad)), _sums(_wide(grad) * (_wide(x) - mean))
    return [sum_dy, sum_dy_xmu, (sum_dy_xmu * scale).to(weight.dtype), sum_dy.to(weight.dtype)]


def batchnorm_backward_c_last(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    count: Tensor,
) -> Tensor:
    _check(grad, x, weight=weight)
    assert count.dtype == torch.int32
    total = count.sum()
    flat = _wide(grad) - sum_dy / total - (_wide(x) - mean) * scale**2 * sum_dy_xmu / total
    return (flat * weight * scale).to(x.dtype)
