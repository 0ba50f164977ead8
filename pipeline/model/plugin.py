"""LaConv as a plug-in: six layers over a backbone that does not see the words (v2 Tab. 9, v1 Tab. 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laconvnet.pipeline.model.backbones import Backbone
from laconvnet.pipeline.model.layers import ConvNormAct
from laconvnet.pipeline.model.net import BlockStage, Downsample, NetConfig, check_sides

LAYERS = (2, 2, 2)  # blocks at strides 8, 16, 32: six, as in the papers
_FIRST = 2  # stage of a preset that has stride 8, counted from 0


class PlugInStage(BlockStage):
    """A map of the backbone at the preset's width, what the finer stage found added to it, then blocks.

    x (B, inputs, h, w), finer (B, dims[stage - 1], 2h, 2w) or None -> (B, dims[stage], h, w).
    """

    def __init__(self, config: NetConfig, stage: int, inputs: int, depth: int) -> None:
        super().__init__()
        dims = config.dims
        self.project = ConvNormAct(inputs, dims[stage], 1, config.activation)
        self.downsample = Downsample(config, dims[stage - 1], dims[stage], stem=False) if stage > _FIRST else None
        self.blocks = nn.ModuleList(config.make_block(stage, config.kernels[stage][0]) for _ in range(depth))

    def forward(self, x: Tensor, finer: Tensor | None, words: Tensor, mask: Tensor) -> Tensor:
        x = self.project(x)
        if self.downsample is not None:
            x = x + self.downsample(finer)
        return self.through(x, words, mask)


class PlugIn(nn.Module):
    """images (B, 3, S, S) in [0, 1], words (B, L, D), mask (B, L), True = a real word -> maps at strides 8, 16, 32.

    Map i is (B, widths[i], S / (8, 16, 32)[i], ...). The papers say six LaConv layers over a backbone, and not where.
    Ours: two at each of the three strides, with the widths, conditions, groups, packing and kernel size that the preset
    has there, behind a 1x1 projection; the finer map goes on to the coarser by the preset's change of stage, so that
    the six form one chain. Raises ConfigError where a side does not divide by 32.
    """

    def __init__(self, backbone: Backbone, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.widths: tuple[int, int, int] = config.dims[2:]
        self.backbone = backbone
        self.stages = nn.ModuleList(
            PlugInStage(config, stage, inputs, depth)
            for stage, (inputs, depth) in enumerate(zip(backbone.widths, LAYERS, strict=True), start=_FIRST)
        )

    def forward(self, images: Tensor, words: Tensor, mask: Tensor) -> list[Tensor]:
        check_sides(images)
        maps: list[Tensor] = []
        finer: Tensor | None = None
        images = images.contiguous(memory_format=torch.channels_last)
        for stage, x in zip(self.stages, self.backbone(images), strict=True):
            finer = stage(x, finer, words, mask)
            maps.append(finer)
        return maps
