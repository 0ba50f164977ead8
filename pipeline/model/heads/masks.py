"""The released code's head for referring expression segmentation: two necks, then atrous spatial pyramid pooling.

Shape legend: B batch, c channels, h x w cells of the stride-8 map, S side of the image in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.pipeline.distributed import world_size
from laconvnet.pipeline.model.heads.base import Features, Head
from laconvnet.pipeline.model.heads.pafpn import PAFPN, TopDown
from laconvnet.pipeline.model.layers import ConvNormAct, norm_act
from laconvnet.pipeline.model.norm import BatchNorm

_STRIDE = 8
_DILATIONS = (6, 12, 18)


@dataclass(frozen=True)
class MaskHeadConfig:
    """A mask of the referent (the released head for segmentation).

    Args:
        align_corners: Enlarge corner on corner, as the released weights were trained; without it pixels lie in place.
    """

    align_corners: bool = False


class ImageNorm(BatchNorm):
    """BatchNorm of one value per channel and image, which also trains on a single image.

    The statistics of one value are no statistics: its variance is zero, so normalising by them would leave nothing of
    the image. There the running ones stand in and stay as they are, as in evaluation. With several images, over all
    processes, it is BatchNorm, so that the released weights keep their meaning.
    """

    def normalised(self, x: Tensor) -> Tensor:
        """BN(x) alone, (B, C, 1, 1) -> (B, C, 1, 1)."""
        if self.training and world_size() == 1 and x.numel() == self.channels:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().normalised(x)


class ImageBranch(nn.Module):
    """The mean over the whole image, convolved and laid back over every cell: (B, c, h, w) -> (B, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = ImageNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return norm_act(self.norm, self.conv(x.mean((2, 3), keepdim=True)), "leaky_relu").expand_as(x)


class ASPP(nn.Module):
    """One 1x1, three dilated 3x3 convolutions and the whole image, side by side: (B, c, h, w) -> (B, 1, h, w).

    477,057 parameters at 128 channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                ConvNormAct(channels, channels, 1, "leaky_relu"),
                *(ConvNormAct(channels, channels, 3, "leaky_relu", dilation=dilation) for dilation in _DILATIONS),
                ImageBranch(channels),
            ]
        )
        self.project = nn.Conv2d(len(self.branches) * channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.project(torch.cat([branch(x) for branch in self.branches], 1))
        return logits


class MaskHead(Head):
    """The last three maps -> logits (B, S, S), one for every pixel of the image."""

    Config = MaskHeadConfig
    tasks: ClassVar[tuple[str, ...]] = ("res", "grec")

    def __init__(self, config: MaskHeadConfig, features: Features) -> None:
        super().__init__()
        self.align_corners = config.align_corners
        self.neck = PAFPN(features.widths)
        self.second_neck = TopDown(features.widths)
        self.pyramid = ASPP(features.widths[0])

    def forward(self, maps: list[Tensor], words: Tensor, mask: Tensor) -> Tensor:
        logits = self.pyramid(self.second_neck(*self.neck(*maps))[0])
        enlarged = F.interpolate(logits, scale_factor=_STRIDE, mode="bilinear", align_corners=self.align_corners)
        return enlarged.squeeze(1)
