"""The MLP between two 1x1 convolutions in PyTorch's operators; what each pass takes and gives: `kernels.mlp`.

The hidden map is made in memory, in float32 (float64 for float64).
"""

from __future__ import annotations

import torch
from torch import Tensor

from laconvnet.kernels.formats import formatted
from laconvnet.kernels.plain.norm import statistics_dtype as sums_dtype

__all__ = ["backward_apply", "backward_reduce", "forward", "statistics", "sums_dtype"]


def statistics(y: Tensor, w1: Tensor) -> tuple[Tensor, Tensor]:
    """y (B, C, H, W), w1 (4 C, C) -> moments (C*C + C), own statistics of the hidden map (8 C + 1)."""
    rows = _rows(y)
    count, of_y, products = len(rows), rows.sum(0), rows.T @ rows
    mean_y, weight = of_y.double() / max(count, 1), w1.double()
    covariance = products.double() / max(count, 1) - torch.outer(mean_y, mean_y)
    var = ((weight @ covariance) * weight).sum(1).clamp_min(0)
    own = torch.cat([weight @ mean_y, var, var.new_full((1,), count)])
    return torch.cat([products.flatten(), of_y]), own.to(rows.dtype)


def forward(
    y: Tensor, w1: Tensor, w2: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """y (B, C, H, W), w1 (4 C, C), w2 (C, 4 C), the norm's (4 C,) -> (B, C, H, W)."""
    normed = _hidden(y, w1, mean, var, eps) * weight + bias
    return _map(normed.relu() @ w2.T.to(normed.dtype), y)


def backward_reduce(
    grad: Tensor,
    y: Tensor,
    w1: Tensor,
    w2: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """grad and y (B, C, H, W) -> own sums (8 C), the gradient of w2 (C, 4 C), sums of g y^T (4 C, C)."""
    hidden = _hidden(y, w1, mean, var, eps)
    normed, above = hidden * weight + bias, _rows(grad)
    g = (above @ w2.to(above.dtype)).masked_fill(normed <= 0, 0.0)
    return torch.cat([g.sum(0), (g * hidden).sum(0)]), above.T @ normed.relu(), g.T @ _rows(y)


def backward_apply(
    grad: Tensor,
    y: Tensor,
    w1: Tensor,
    w2: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    sums: Tensor,
    count: Tensor,
    beside: Tensor | None,
    eps: float,
) -> Tensor:
    """The gradient of y (B, C, H, W), and `beside`, like it.

    `sums` (8 C) and `count` (one number) are those of all processes.
    """
    hidden = _hidden(y, w1, mean, var, eps)
    g = (_rows(grad) @ w2.to(hidden.dtype)).masked_fill(hidden * weight + bias <= 0, 0.0)
    mean_g, mean_gh = (sums / count).chunk(2)
    below = (weight * (var + eps).rsqrt()) * (g - mean_g - hidden * mean_gh)
    found = _map(below @ w1.to(below.dtype), y)
    return found if beside is None else found + beside


def _hidden(y: Tensor, w1: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """(h - mean) / deviation, a row a pixel."""
    rows = _rows(y)
    return (rows @ w1.T.to(rows.dtype) - mean) * (var + eps).rsqrt()


def _rows(y: Tensor) -> Tensor:
    return y.movedim(1, -1).flatten(0, -2).to(sums_dtype(y))


def _map(rows: Tensor, like: Tensor) -> Tensor:
    last = rows.to(like.dtype).view(*like.movedim(1, -1).shape)
    return formatted(last.movedim(-1, 1), like)
