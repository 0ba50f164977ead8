"""The paper's head for referring expression comprehension: multi-scale fusion, then a 1x1 anchor head (v2 Sec. 5.2).

Shape legend: B batch, A anchors, h x w cells of the output grid. Widths (c3, c4, c5) are those of the last three
stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.heads.base import Features, Head
from laconvnet.pipeline.model.layers import ConvNormAct


@dataclass(frozen=True)
class AnchorHeadConfig:
    """A box by anchors on one grid (the paper's head for referring expressions).

    Args:
        hidden: Width of the fusion; None is the width of the word features (512 in the paper).
        stride: Pixels of the input to a cell of the output grid; the paper's is 32.
        sizes: Width and height of each anchor, in pixels of the input.
        prior: Objectness that an untrained head predicts.
    """

    hidden: int | None = None
    stride: Literal[8, 16, 32] = 32
    sizes: tuple[tuple[int, int], ...] = ((137, 256), (248, 272), (386, 271))
    prior: float = 0.01


class FusionStep(nn.Module):
    """1x1 to `outputs`, then 3x3, one step of the way up or down: (B, inputs, H, W) -> (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = ConvNormAct(inputs, outputs, 1, "leaky_relu")
        self.mix = ConvNormAct(outputs, outputs, 3, "leaky_relu")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mix(self.squeeze(x))
        return out


class MultiScaleFusion(nn.Module):
    """Stage maps at strides 8, 16, 32 -> one map (B, hidden, h, w) at `stride`.

    Top-down (bilinear x2, two convolutions, concatenated with the finer map) to stride 8, then bottom-up (2x2 average)
    as far as the output grid, and a 1x1 projection. The steps work at hidden / 2. Only the steps that the output needs
    exist. With hidden 512 at stride 32 this meets the papers' 8.9 and 14.5 G multiply-adds (v2 Tab. 2).
    """

    def __init__(self, widths: tuple[int, int, int], hidden: int, stride: Literal[8, 16, 32]) -> None:
        super().__init__()
        fine, middle, coarse = widths
        half = hidden // 2
        self.from_coarse = FusionStep(coarse, half)
        self.from_middle = FusionStep(middle + half, half)
        merged = fine + half
        if stride >= 16:
            self.to_middle = FusionStep(merged, half)
            merged = middle + 2 * half
        if stride == 32:
            self.to_coarse = FusionStep(merged, half)
            merged = coarse + half
        self.stride = stride
        self.project = ConvNormAct(merged, hidden, 1, "leaky_relu")

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        middle = torch.cat([self.from_coarse(_double(coarse)), middle], 1)
        merged = torch.cat([self.from_middle(_double(middle)), fine], 1)
        if self.stride >= 16:
            merged = torch.cat([self.to_middle(F.avg_pool2d(merged, 2)), middle], 1)
        if self.stride == 32:
            merged = torch.cat([self.to_coarse(F.avg_pool2d(merged, 2)), coarse], 1)
        out: Tensor = self.project(merged)
        return out


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class AnchorHead(Head):
    """The last three maps -> raw predictions (B, A, 5, h, w): tx, ty, tw, th, objectness (YOLOv3's parametrisation)."""

    Config = AnchorHeadConfig
    tasks: ClassVar[tuple[str, ...]] = ("rec",)

    def __init__(self, config: AnchorHeadConfig, features: Features) -> None:
        super().__init__()
        if config.stride not in (8, 16, 32):
            raise ConfigError(f"model.heads.anchors.stride: expected 8, 16 or 32, got {config.stride}")
        if not config.sizes:
            raise ConfigError("model.heads.anchors.sizes: expected at least one (width, height) in pixels, got none")
        hidden = config.hidden or features.words
        self.anchors = len(config.sizes)
        self.fusion = MultiScaleFusion(features.widths, hidden, config.stride)
        self.predict = nn.Conv2d(hidden, self.anchors * 5, 1)
        bias = self.predict.bias
        assert bias is not None
        with torch.no_grad():
            # Nearly every cell is empty: start there, or the first steps do nothing but learn it.
            bias.view(self.anchors, 5)[:, 4] = -math.log((1.0 - config.prior) / config.prior)

    def forward(self, maps: list[Tensor], words: Tensor, mask: Tensor) -> Tensor:
        raw: Tensor = self.predict(self.fusion(*maps))
        return raw.reshape(raw.shape[0], self.anchors, 5, *raw.shape[2:])
