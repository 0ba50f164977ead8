"""The single-modal group convolution that LaConv is measured against ("Base" of v1 Tab. 4a)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.pipeline.model.blocks.base import MLP, BlockConfig
from laconvnet.pipeline.model.layers import norm_act
from laconvnet.pipeline.model.norm import BatchNorm


class GroupConvBlock(nn.Module):
    """y = act(x + BN(conv(x))), out = y + MLP(y): (B, d, H, W) -> (B, d, H, W); the words are not looked at.

    v1 says no more than "single-modal group convolution network". Read here as LaConv's own convolution (v2 Eq. 2:
    k x k filters, one for all channels of a group) with g learned filters, the same at every position, where LaConv
    generates them: what "+ Dynamic filters" then adds is the generator and nothing else.
    """

    ignores: ClassVar[tuple[str, ...]] = ("packing", "conditions", "generator")

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.config = config
        size = config.kernel_size
        self.filters = nn.Parameter(torch.empty(config.groups, size, size))
        nn.init.uniform_(self.filters, -1.0 / size, 1.0 / size)  # as nn.Conv2d: one channel in, k*k taps
        self.norm = BatchNorm(config.dim)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        config = self.config
        share = config.dim // config.groups
        filters = self.filters[:, None]
        filters = filters.repeat(share, 1, 1, 1) if config.interleaved else filters.repeat_interleave(share, 0)
        convolved = F.conv2d(x, filters, padding=config.kernel_size // 2, groups=config.dim)
        out: Tensor = self.mlp(norm_act(self.norm, convolved, config.activation, x))
        return out
