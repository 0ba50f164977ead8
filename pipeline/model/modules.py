"""The convolution and the block of LaConvNet as layers of any network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laconvnet.kernels import check_probability
from laconvnet.pipeline.model.blocks import laconv
from laconvnet.pipeline.model.blocks.base import BlockConfig


class LaConv(nn.Module):
    """The language-guided dynamic convolution (v2 Eq. 1-3): each pixel's filters are projected from its condition.

    x (B, channels, H, W), condition (B, condition, H, W), or (B, condition, 1, 1) for the same filters at every pixel
    -> (B, channels, H, W). ``groups`` filters of ``kernel_size`` x ``kernel_size`` a pixel, each for channels / groups
    channels; stride 1, zero padding. ``dropout`` is that of the filters while training.

    Raises ValueError, naming the argument, for sizes that do not fit.
    """

    def __init__(
        self, channels: int, condition: int, groups: int = 1, kernel_size: int = 7, dropout: float = 0.0
    ) -> None:
        super().__init__()
        _check(channels, condition, groups, kernel_size)
        check_probability(dropout, "dropout")
        self.filters = laconv.Filters(
            BlockConfig(
                dim=channels,
                condition=condition,
                groups=groups,
                packing=1,
                kernel_size=kernel_size,
                words=1,
                filter_dropout=dropout,
            ),
            condition,
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.filters(x, condition)
        return out


class LaConvBlock(nn.Module):
    """The LaConv block (v2 Fig. 2, Eq. 2-6): words choose what is looked for at each pixel, then an MLP.

    x (B, channels, H, W), words (B, L, words), mask (B, L) of bool, True where a word is real (default: all are)
    -> (B, channels, H, W). The condition that the filters are made from is ``condition`` wide (by default as x) and
    attends to the words with ``heads`` heads; ``packing`` x ``packing`` pixels share their attention, and H and W
    divide by it. ``dropout`` is that of attention and filters while training.

    Its batch norms are over all processes of the default group while training, as `nn.SyncBatchNorm`'s. Raises
    ValueError, naming the argument, for sizes that do not fit.
    """

    def __init__(
        self,
        channels: int,
        words: int,
        condition: int | None = None,
        groups: int = 1,
        kernel_size: int = 7,
        packing: int = 1,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        condition = channels if condition is None else condition
        _check(channels, condition, groups, kernel_size)
        check_probability(dropout, "dropout")
        if words < 1 or packing < 1:
            raise ValueError(f"words {words}, packing {packing}: expected at least 1")
        if heads < 1 or condition % heads:
            raise ValueError(f"heads: {heads}: expected a divisor of condition, {condition}")
        self.words, self.packing = words, packing
        self.block = laconv.LaConvBlock(
            BlockConfig(
                dim=channels,
                condition=condition,
                groups=groups,
                packing=packing,
                kernel_size=kernel_size,
                words=words,
                heads=heads,
                affinity_dropout=dropout,
                filter_dropout=dropout,
            )
        )

    def forward(self, x: Tensor, words: Tensor, mask: Tensor | None = None) -> Tensor:
        if x.shape[-2] % self.packing or x.shape[-1] % self.packing:
            raise ValueError(f"x: {tuple(x.shape)}: expected sides that divide by packing, {self.packing}")
        if words.dim() != 3 or words.shape[0] != x.shape[0] or words.shape[2] != self.words:
            raise ValueError(f"words: expected ({x.shape[0]}, L, {self.words}), got {tuple(words.shape)}")
        if mask is None:
            mask = words.new_ones(words.shape[:2], dtype=torch.bool)
        if mask.shape != words.shape[:2]:
            raise ValueError(f"mask: expected {tuple(words.shape[:2])}, as words, got {tuple(mask.shape)}")
        out: Tensor = self.block(x, words, mask)
        return out


def _check(channels: int, condition: int, groups: int, kernel_size: int) -> None:
    if channels < 1 or condition < 1:
        raise ValueError(f"channels {channels}, condition {condition}: expected at least 1")
    if groups < 1 or channels % groups:
        raise ValueError(f"groups: {groups}: expected a divisor of channels, {channels}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: {kernel_size}: expected an odd number")
