"""Maps that lie packed, in PyTorch's operators for every device; what each function takes and gives: `kernels.packed`.

They are the passes of `kernels.plain.norm`, or another module with the same functions, over the rows of the packed map.
"""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor


def unpacked_shape(packed: Tensor, packing: int) -> tuple[int, int, int, int]:
    """Of the map that packed (B, s*s*M, h, w) stands for: (B, M, h*s, w*s)."""
    batch, channels, height, width = packed.shape
    return batch, channels // packing**2, height * packing, width * packing


def rows(packed: Tensor, channels: int) -> Tensor:
    """(B, s*s*M, h, w) -> (B*h*w*s*s, M): a row a pixel, cell by cell; the same memory where it is channels last."""
    return packed.permute(0, 2, 3, 1).reshape(-1, channels)


def plain(rows: Tensor, shape: torch.Size, packing: int) -> Tensor:
    """Rows of a packed map of this shape, (B, s*s*M, h, w) -> the map (B, M, h*s, w*s), channels last."""
    batch, _, height, width = shape
    apart = rows.view(batch, height, width, packing, packing, rows.shape[1])
    inner = apart.permute(0, 5, 1, 3, 2, 4).reshape(batch, rows.shape[1], height * packing, width * packing)
    return inner.contiguous(memory_format=torch.channels_last)


def plain_rows(x: Tensor, packing: int) -> Tensor:
    """The map (B, M, h*s, w*s) -> the rows of the packed one, (B*h*w*s*s, M)."""
    batch, channels, height, width = x.shape
    apart = x.reshape(batch, channels, height // packing, packing, width // packing, packing)
    return apart.permute(0, 2, 4, 3, 5, 1).reshape(-1, channels)


class Passes:
    """The passes of relu(BN(relu(packed))) by those of a module such as `kernels.plain.norm`."""

    def __init__(self, norm: ModuleType) -> None:
        self.norm = norm

    def unpack(
        self, packed: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float, packing: int
    ) -> Tensor:
        """packed (B, s*s*M, h, w) -> (B, M, h*s, w*s), channels last."""
        source = F.relu(rows(packed, len(mean)))
        return plain(self.norm.apply(source, None, mean, var, weight, bias, eps, True), packed.shape, packing)

    def unpack_backward_reduce(
        self,
        grad: Tensor,
        packed: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        packing: int,
    ) -> Tensor:
        """grad (B, M, h*s, w*s), packed (B, s*s*M, h, w) -> (2 M): the gradients of bias and weight."""
        source, above = F.relu(rows(packed, len(mean))), plain_rows(grad, packing)
        sums: Tensor = self.norm.backward_reduce(above, source, None, mean, var, weight, bias, eps, True)[0]
        return sums

    def unpack_backward_apply(
        self,
        grad: Tensor,
        packed: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        sums: Tensor,
        count: Tensor,
        eps: float,
        packing: int,
    ) -> Tensor:
        """The gradient of packed (B, s*s*M, h, w); `sums` (2 M) and `count` (one number) are those of all processes."""
        before, above = rows(packed, len(mean)), plain_rows(grad, packing)
        channels = (mean, var, weight, bias, sums, count, eps)
        found = self.norm.backward_apply(above, F.relu(before), *channels, True)
        found = torch.ops.aten.threshold_backward(found, before, 0)
        batch, _, height, width = packed.shape
        return torch.empty_like(packed).copy_(found.view(batch, height, width, packed.shape[1]).permute(0, 3, 1, 2))
