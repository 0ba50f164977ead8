"""Question-guided hybrid convolution in place of LaConv (Gao et al. 2018; v2 Tab. 11).

Shape legend: B batch, d block width, r = d/2 bottleneck width, g groups, D word width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.blocks.base import MLP, BlockConfig
from laconvnet.pipeline.model.blocks.laconv import WordCondition
from laconvnet.pipeline.model.layers import ConvNormAct, norm_act
from laconvnet.pipeline.model.norm import BatchNorm


class HybridConv(nn.Module):
    """A 3x3 group convolution: the first half of the groups has kernels made from the words, the other learned ones.

    x (B, r, H, W), sentence (B, D) -> (B, r, H, W), the channels of the groups interleaved (channel i of group j goes
    to i * g + j), so that the 1x1 convolution that follows is not alone in mixing predicted and learned groups.
    """

    def __init__(self, width: int, groups: int, words: int) -> None:
        super().__init__()
        self.groups, self.inside = groups, width // groups
        self.weight = nn.Parameter(torch.empty(width // 2, self.inside, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Conv2d
        self.generator = nn.Linear(words, self.weight.numel())

    def forward(self, x: Tensor, sentence: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        predicted = self.generator(sentence).view(batch, *self.weight.shape)
        learned = self.weight.to(predicted.dtype).expand(batch, *self.weight.shape)
        kernels = torch.cat([predicted, learned], 1).flatten(0, 1)
        # Every image has its own kernels: the images of a batch become groups of one convolution.
        out = F.conv2d(x.reshape(1, -1, height, width), kernels, padding=1, groups=batch * self.groups)
        out = out.view(batch, self.groups, self.inside, height, width).transpose(1, 2)
        return out.reshape(x.shape).contiguous(memory_format=torch.channels_last)


class QghcBlock(nn.Module):
    """y = act(x + BN(1x1(act(BN(hybrid(act(BN(1x1(x)))))))), out = y + MLP(y): (B, d, H, W) -> (B, d, H, W).

    From Gao et al.: group convolution, the kernels of some groups predicted from the question and shared by all
    positions, those of the others learned, channels shuffled between groups, 1x1 convolutions around it. Ours, since v2
    does not describe its block: half of the groups are predicted, from the mean of the real words by one linear layer,
    in a bottleneck of half the width (ResNeXt's), with the groups of the preset. The network of Tab. 11
    then has 6.8 G multiply-adds, as there, and grows by 26.6 M parameters (32.6 M there: 23.1 to 55.7 M).

    Raises ConfigError where the groups cannot be halved or do not divide the bottleneck.
    """

    ignores: ClassVar[tuple[str, ...]] = ("kernel_size", "packing", "conditions", "generator")

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width = config.dim // 2
        if config.groups % 2 or width % config.groups:
            raise ConfigError(
                f"model.groups: block qghc expects an even number that divides {width}, half of the stage's "
                f"{config.dim} channels, got {config.groups}"
            )
        self.config = config
        self.condition = WordCondition()
        self.reduce = ConvNormAct(config.dim, width, 1, config.activation)
        self.hybrid = HybridConv(width, config.groups, config.words)
        self.hybrid_norm = BatchNorm(width)
        self.expand = nn.Conv2d(width, config.dim, 1, bias=False)
        self.norm = BatchNorm(config.dim)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        kind = self.config.activation
        sentence = self.condition(x, words, mask).flatten(1)
        inner = norm_act(self.hybrid_norm, self.hybrid(self.reduce(x), sentence), kind)
        out: Tensor = self.mlp(norm_act(self.norm, self.expand(inner), kind, x))
        return out
