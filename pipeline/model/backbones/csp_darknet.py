"""CSPDarkNet (Wang et al. 2020) with the state dict names of timm's `cspdarknet53`."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.pipeline.model.backbones.base import Backbone, initialise
from laconvnet.pipeline.model.norm import BatchNorm


class ConvBnAct(nn.Module):
    """Convolution without bias -> BatchNorm -> leaky ReLU of slope 0.01, with which the weights were trained.

    (B, inputs, H, W) -> (B, outputs, H / stride, W / stride), rounded up.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn = BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn(self.conv(x)))


class DarkBlock(nn.Module):
    """1x1 then 3x3, added to the input, no activation after the sum: (B, width, H, W) -> (B, width, H, W)."""

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.conv1 = ConvBnAct(width, inside, 1)
        self.conv2 = ConvBnAct(inside, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.conv2(self.conv1(x))
        return x + added


class CrossStage(nn.Module):
    """Halves the side, then sends one half of the channels through the blocks and the other half past them.

    (B, inputs, H, W) -> (B, outputs, H / 2, W / 2), rounded up. The first stage is that of Darknet's
    configuration: twice as wide between, with bottlenecks of half the width.
    """

    def __init__(self, inputs: int, outputs: int, depth: int, first: bool) -> None:
        super().__init__()
        between = 2 * outputs if first else outputs
        half = between // 2
        self.conv_down = ConvBnAct(inputs, outputs, 3, 2)
        self.conv_exp = ConvBnAct(outputs, between, 1)
        self.blocks = nn.Sequential(*(DarkBlock(half, half // 2 if first else half) for _ in range(depth)))
        self.conv_transition_b = ConvBnAct(half, half, 1)
        self.conv_transition = ConvBnAct(between, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        past, through = self.conv_exp(self.conv_down(x)).chunk(2, 1)
        through = self.conv_transition_b(self.blocks(through))
        out: Tensor = self.conv_transition(torch.cat([past, through], 1))
        return out


class CspDarkNet(Backbone):
    """A 3x3 stem at full resolution, then five stages of `depths` blocks, each twice as wide as the one before."""

    classifier: ClassVar[str] = "head."

    def __init__(self, depths: tuple[int, int, int, int, int], width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("conv1", ConvBnAct(3, width // 2, 3))
        self.stages = nn.Sequential(
            *(
                CrossStage(width * 2**number // 2, width * 2**number, depth, first=number == 0)
                for number, depth in enumerate(depths)
            )
        )
        self.widths = (4 * width, 8 * width, 16 * width)
        initialise(self)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, S, S) -> the maps (B, widths[i], S / (8, 16, 32)[i], ...)."""
        x = self.stem(x)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found[2:]


def csp_darknet53() -> CspDarkNet:
    """The backbone of v2 Tab. 9 for referring expressions, with maps 256, 512 and 1024 wide."""
    return CspDarkNet((1, 2, 8, 8, 4))
