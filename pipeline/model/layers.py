"""Small parts that several files of the model share."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.kernels.attention import masked_softmax
from laconvnet.pipeline.model.draws import Dropout
from laconvnet.pipeline.model.norm import BatchNorm

Activation = Literal["relu", "silu", "leaky_relu"]
LEAK = 0.1  # slope of the leaky ReLU below zero


def activate(x: Tensor, kind: Activation) -> Tensor:
    """The activation of every value of x, of any shape."""
    if kind == "relu":
        return F.relu(x)
    return F.silu(x) if kind == "silu" else F.leaky_relu(x, LEAK)


def norm_act(norm: BatchNorm, x: Tensor, kind: Activation, beside: Tensor | None = None) -> Tensor:
    """activation(BN(x)), or activation(beside + BN(x)): (B, C, ...) -> the same shape."""
    if kind == "silu":
        return activate(norm(x, beside), kind)
    out: Tensor = norm(x, beside, relu=True, slope=LEAK if kind == "leaky_relu" else 0.0)
    return out


class ConvNormAct(nn.Module):
    """Convolution without bias, `same` padding -> BatchNorm -> activation.

    (B, inputs, H, W) -> (B, outputs, H / stride, W / stride), rounded up.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        activation: Activation,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, stride, padding, dilation, bias=False)
        self.norm = BatchNorm(outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return norm_act(self.norm, self.conv(x), self.activation)


def position_code(channels: int, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The 2-D sine code (channels, height, width): first half rows, second half columns, sine and cosine interleaved.

    Counted from 1 and not normalised, temperature 10000, as in the released code. Computed in float32, or in `dtype`
    where that is wider.
    """
    half, wide = channels // 2, torch.promote_types(dtype, torch.float32)
    index = torch.arange(half, device=device)
    frequency = torch.exp(-math.log(10000.0) * 2 * (index // 2).to(wide) / half)
    phase = (index % 2).to(wide) * (math.pi / 2)  # cos(a) = sin(a + pi/2)

    def along(length: int) -> Tensor:
        position = torch.arange(1, length + 1, device=device, dtype=wide)
        return torch.sin(position * frequency[:, None] + phase[:, None])

    rows = along(height).T[:, None, :].expand(height, width, half)
    columns = along(width).T[None, :, :].expand(height, width, half)
    return torch.cat([rows, columns], dim=2).to(dtype).permute(2, 0, 1)


class AttentivePool(nn.Module):
    """A learned weighted mean: items (B, N, width), mask (B, N) -> (B, outputs); weights by a two-layer MLP."""

    def __init__(self, width: int, hidden: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, 1))
        self.merge = nn.Linear(width, outputs)

    def weights(self, items: Tensor, mask: Tensor) -> Tensor:
        """items (B, N, width), mask (B, N) -> (B, N) in float32 or wider, which sum to 1 over the real items."""
        return masked_softmax(self.score(items).squeeze(-1), mask, dim=1)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        weights = self.weights(items, mask)
        pooled: Tensor = self.merge((weights.to(items.dtype)[:, None, :] @ items).squeeze(1))
        return pooled
