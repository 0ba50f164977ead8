"""LaConv for exporters: a loop over taps that writes nothing in place (v2 Eq. 1-3).

In ATen's operators, which a trace, `torch.fx` and eager PyTorch all take. Shape legend: that of `kernels.plain.taps`,
whose sums these are.
"""

from __future__ import annotations

import torch
from torch import Tensor

_END = 2**63 - 1  # of a dimension, as slices have it


def laconv(
    x: Tensor, cond: Tensor, weight: Tensor, bias: Tensor | None, kernel_size: int, groups: int, interleaved: bool
) -> Tensor:
    """x (B, C, H, W), cond (B, M, H, W) or (B, M, 1, 1), weight (k*k*g, M), bias (k*k*g,) -> (B, C, H, W)."""
    aten, reach = torch.ops.aten, kernel_size // 2
    projection = aten.unsqueeze.default(aten.unsqueeze.default(weight, 2), 3)
    filters = aten.unflatten.int(aten.conv2d.default(cond, projection, bias), 1, [kernel_size**2, groups])
    # A group's channels share its filters: they lie behind the groups, or before them.
    filters = aten.unsqueeze.default(filters, 2 if interleaved else 3)
    sizes = [-1, groups] if interleaved else [groups, -1]
    padded = aten.unflatten.int(aten.pad.default(x, [reach] * 4), 1, sizes)
    out: Tensor | None = None
    for row in range(kernel_size):
        rows = aten.slice.Tensor(padded, 3, row, row - 2 * reach or _END)
        for column in range(kernel_size):
            seen = aten.slice.Tensor(rows, 4, column, column - 2 * reach or _END)
            one = aten.select.int(filters, 1, row * kernel_size + column)
            out = aten.mul.Tensor(seen, one) if out is None else aten.addcmul.default(out, seen, one)
    merged: Tensor = aten.flatten.using_ints(out, 1, 2)
    return merged
