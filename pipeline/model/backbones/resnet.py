"""ResNet (He et al. 2016) with the state dict names of torchvision and timm."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.pipeline.model.backbones.base import Backbone, initialise
from laconvnet.pipeline.model.norm import BatchNorm


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; (B, inputs, H, W) -> (B, width, H / stride, W / stride)."""

    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv1(x), relu=True)
        out = self.bn2(self.conv2(out), self.downsample(x), relu=True)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 (which takes the stride), 1x1; (B, inputs, H, W) -> (B, 4 * width, H / stride, W / stride)."""

    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = BatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = BatchNorm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = BatchNorm(4 * width)
        self.downsample = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv1(x), relu=True)
        out = self.bn2(self.conv2(out), relu=True)
        out = self.bn3(self.conv3(out), self.downsample(x), relu=True)
        return out


class ResNet(Backbone):
    """Stem, then four layers of `depths` blocks; `width` is that of the first layer inside its blocks."""

    classifier: ClassVar[str] = "fc."

    def __init__(
        self, block: Literal["basic", "bottleneck"], depths: tuple[int, int, int, int], width: int = 64
    ) -> None:
        super().__init__()
        kind = BasicBlock if block == "basic" else Bottleneck
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = BatchNorm(width)
        inputs, outputs = width, []
        for number, depth in enumerate(depths):
            inside = width * 2**number
            blocks: list[nn.Module] = []
            for position in range(depth):
                blocks.append(kind(inputs, inside, 2 if number and not position else 1))
                inputs = inside * kind.expansion
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
            outputs.append(inputs)
        self.widths = (outputs[1], outputs[2], outputs[3])
        initialise(self)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, S, S) -> the maps (B, widths[i], S / (8, 16, 32)[i], ...)."""
        x = F.max_pool2d(self.bn1(self.conv1(x), relu=True), 3, 2, 1)
        found = []
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            found.append(x)
        return found[1:]


def resnet34() -> ResNet:
    """The backbone that v1 Tab. 4b compares with, with maps 128, 256 and 512 wide."""
    return ResNet("basic", (3, 4, 6, 3))


def resnet101() -> ResNet:
    """The backbone of v2 Tab. 9 and v1 Tab. 5 for questions, with maps 512, 1024 and 2048 wide."""
    return ResNet("bottleneck", (3, 4, 23, 3))
