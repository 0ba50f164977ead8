"""FiLM in place of LaConv (Perez et al. 2018; v2 Tab. 11): language scales and shifts channels, the same everywhere."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from laconvnet.pipeline.model.blocks.base import MLP, BlockConfig
from laconvnet.pipeline.model.blocks.laconv import WordCondition
from laconvnet.pipeline.model.layers import activate, norm_act
from laconvnet.pipeline.model.norm import BatchNorm


class FilmBlock(nn.Module):
    """y = act(x + BN(conv3x3(x))), out = y + MLP(y), the MLP's hidden features modulated: (B, d, H, W) -> (B, d, H, W).

    The modulation is (1 + scale) * h + shift on the 4d normalised features, before their activation, and scale and
    shift are one linear layer of the mean of the real words, D -> 8d. v2 does not describe its FiLM block. With this
    one the network of Tab. 11 grows by 7.4 M parameters (7.3 M there: 23.1 to 30.4 M) to 9.7 G multiply-adds (9.8 G).
    """

    ignores: ClassVar[tuple[str, ...]] = ("groups", "kernel_size", "packing", "conditions", "generator")

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.config = config
        self.condition = WordCondition()
        self.generator = nn.Linear(config.words, 8 * config.dim)
        self.conv = nn.Conv2d(config.dim, config.dim, 3, padding=1, bias=False)
        self.norm = BatchNorm(config.dim)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        kind = self.config.activation
        sentence = self.condition(x, words, mask).flatten(1)
        scale, shift = self.generator(sentence)[:, :, None, None].chunk(2, 1)
        y = norm_act(self.norm, self.conv(x), kind, x)
        hidden = self.mlp.expand_norm(self.mlp.expand(y))
        return self.mlp.narrowed(activate((1 + scale) * hidden + shift, kind), y)
