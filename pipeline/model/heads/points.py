"""The released code's head for referring expression comprehension: a path aggregation neck, one anchor-free grid.

Shape legend: B batch, h x w cells of the output grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.heads.base import Features, Head
from laconvnet.pipeline.model.heads.pafpn import PAFPN
from laconvnet.pipeline.model.layers import ConvNormAct


@dataclass(frozen=True)
class PointHeadConfig:
    """A box by its distance from a point, no anchors (the released head for referring expressions).

    Args:
        hidden: Width of the head's convolutions; None is half that of the word features (256 in the released code).
        stride: Pixels of the input to a cell of the output grid; the released code's is 32.
        prior: Objectness that an untrained head predicts.
    """

    hidden: int | None = None
    stride: Literal[8, 16, 32] = 32
    prior: float = 0.01


class PointHead(Head):
    """The last three maps -> raw predictions (B, 5, h, w): x, y, log w, log h in cells, objectness (YOLOX's).

    1,313,541 parameters after the neck at width 512, hidden 256.
    """

    Config = PointHeadConfig
    tasks: ClassVar[tuple[str, ...]] = ("rec",)

    def __init__(self, config: PointHeadConfig, features: Features) -> None:
        super().__init__()
        if config.stride not in (8, 16, 32):
            raise ConfigError(f"model.heads.points.stride: expected 8, 16 or 32, got {config.stride}")
        if not 0 < config.prior < 1:
            raise ConfigError(f"model.heads.points.prior: expected a number between 0 and 1, got {config.prior}")
        hidden = config.hidden or features.words // 2
        self.neck = PAFPN(features.widths, config.stride)
        self.mix = nn.Sequential(
            ConvNormAct(features.widths[(8, 16, 32).index(config.stride)], hidden, 1, "silu"),
            ConvNormAct(hidden, hidden, 3, "silu"),
            ConvNormAct(hidden, hidden, 3, "silu"),
        )
        self.predict = nn.Conv2d(hidden, 5, 1)
        bias = self.predict.bias
        assert bias is not None
        with torch.no_grad():
            # Nearly every cell is empty: start there, or the first steps do nothing but learn it.
            bias[4] = -math.log((1.0 - config.prior) / config.prior)

    def forward(self, maps: list[Tensor], words: Tensor, mask: Tensor) -> Tensor:
        raw: Tensor = self.predict(self.mix(self.neck(*maps)[-1]))
        return raw
