"""LaConvNet: five stages of LaConv blocks from raw pixels (v2 Sec. 4, Tab. 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet import kernels
from laconvnet.kernels.stem import stem, takes
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.blocks import BLOCKS, BlockConfig
from laconvnet.pipeline.model.draws import check_dropout
from laconvnet.pipeline.model.layers import ConvNormAct
from laconvnet.pipeline.model.recompute import recomputed

STRIDES = (2, 4, 8, 16, 32)
FIVE = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class NetConfig:
    """The visual network; five entries where a field is per stage."""

    kernels: tuple[tuple[int, ...], ...]  # per stage, one kernel size a block
    dims: FIVE = (16, 64, 128, 256, 512)
    conditions: FIVE = (64, 128, 128, 256, 512)
    groups: FIVE = (4, 4, 8, 8, 16)
    packing: FIVE = (8, 4, 2, 1, 1)
    heads: int = 8
    words: int = 512  # width of the word features
    block: str = "laconv"  # a name of BLOCKS
    generator: Literal["affinity", "words"] = "affinity"  # what the filters are made from (v2 Tab. 10)
    downsample: Literal["pool", "space_to_depth"] = "pool"  # the paper's stem and stage changes, or the released code's
    activation: Literal["relu", "silu"] = "relu"
    output_activation: bool = False  # one more activation after the MLP residual (released code)
    interleaved: bool = False  # channel -> group by modulo (released code)
    affinity_dropout: float = 0.1
    filter_dropout: float = 0.1
    language_layers: int = 1  # self-attention layers of the word encoder that goes with the preset
    language_rnn: Literal["lstm", "gru"] = "lstm"
    word_dim: int = 300  # width of the word vectors
    word_pool: bool = False  # an attentive pool of the words that nothing reads (released code)
    box_head: str = "anchors"  # the head for referring expressions that goes with the preset

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(len(stage) for stage in self.kernels)

    def tokens(self, size: int) -> tuple[int, ...]:
        """Of each stage, how many tokens of packed pixels a side of ``size`` pixels leaves the affinity."""
        return tuple(size // stride // packing for stride, packing in zip(STRIDES, self.packing, strict=True))

    def make_block(self, stage: int, kernel_size: int) -> nn.Module:
        """A block of the given stage, counted from 0."""
        return BLOCKS[self.block](
            BlockConfig(
                dim=self.dims[stage],
                condition=self.conditions[stage],
                groups=self.groups[stage],
                packing=self.packing[stage],
                kernel_size=kernel_size,
                words=self.words,
                heads=self.heads,
                generator=self.generator,
                activation=self.activation,
                output_activation=self.output_activation,
                interleaved=self.interleaved,
                affinity_dropout=self.affinity_dropout,
                filter_dropout=self.filter_dropout,
            )
        )


def _sevens(depths: FIVE, first: tuple[int, ...] | None = None) -> tuple[tuple[int, ...], ...]:
    return (first or (3,) * depths[0], *((7,) * depth for depth in depths[1:]))


_RELEASED = NetConfig(
    kernels=_sevens((2, 1, 2, 4, 1), first=(3, 5)),
    downsample="space_to_depth",
    activation="silu",
    output_activation=True,
    interleaved=True,
    language_rnn="gru",
    word_pool=True,
    box_head="points",
)

PRESETS: dict[str, NetConfig] = {
    "tiny": NetConfig(
        kernels=((3,), (3,), (5,), (7,), (7,)),
        dims=(8, 24, 64, 96, 128),
        conditions=(8, 24, 64, 96, 128),
        heads=4,
        groups=(2, 4, 8, 8, 8),
        words=128,
        word_dim=128,
        downsample="space_to_depth",
        filter_dropout=0.0,
    ),
    "10": NetConfig(kernels=_sevens((2, 1, 2, 4, 1)), language_layers=3),
    "15": NetConfig(kernels=_sevens((3, 2, 3, 5, 2)), language_layers=3),
    "19": NetConfig(kernels=_sevens((3, 3, 4, 6, 3)), language_layers=3),
    "s": NetConfig(kernels=_sevens((2, 1, 2, 4, 1))),
    "b": NetConfig(kernels=_sevens((3, 3, 4, 6, 3))),
    "s_released": _RELEASED,
    "b_released": replace(_RELEASED, kernels=_sevens((3, 3, 4, 6, 3), first=(3, 5, 7))),
}


def check(net: NetConfig) -> NetConfig:
    """The network, if it can be built; raises ConfigError naming the field of `ModelConfig` that does not fit."""
    if net.block not in BLOCKS:
        raise ConfigError(f"model.block: expected one of {' '.join(BLOCKS)}, got {net.block!r}")
    for stage, (dim, groups, packing) in enumerate(zip(net.dims, net.groups, net.packing, strict=True), start=1):
        if groups < 1 or dim % groups:
            raise ConfigError(f"model.groups: expected a divisor of the {dim} channels of stage {stage}, got {groups}")
        room = STRIDES[-1] // STRIDES[stage - 1]
        if packing < 1 or room % packing:
            raise ConfigError(
                f"model.packing: expected a divisor of {room} at stage {stage}, so that every side that divides by "
                f"{STRIDES[-1]} can be packed, got {packing}"
            )
    for stage, condition in enumerate(net.conditions, start=1):
        if condition < 1 or condition % net.heads:
            raise ConfigError(
                f"model.conditions: expected a positive multiple of the {net.heads} heads of the affinity at stage "
                f"{stage}, got {condition}"
            )
    check_dropout(net.filter_dropout, "model.filter_dropout")
    check_dropout(net.affinity_dropout, "model.affinity_dropout")
    for kernel_size in (size for stage in net.kernels for size in stage):
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(f"model.kernel_size: expected an odd positive number, got {kernel_size}")
    return net


def check_sides(images: Tensor) -> None:
    """Raises ConfigError where a side of the images (B, 3, H, W) does not divide by 32."""
    if images.shape[2] % STRIDES[-1] or images.shape[3] % STRIDES[-1]:
        raise ConfigError(
            f"size: the side of the input must divide by {STRIDES[-1]}, got {images.shape[2]} x {images.shape[3]}"
        )


class Downsample(nn.Module):
    """Halves the side and changes the width: (B, inputs, H, W) -> (B, outputs, H/2, W/2).

    `pool`: 2x2 max pool, then a 1x1 convolution (the paper; on the image itself the linear layer comes first, at full
    resolution). `space_to_depth`: 2x2 pixels into channels, a convolution without bias, BN, activation (released code).
    """

    def __init__(self, config: NetConfig, inputs: int, outputs: int, stem: bool) -> None:
        super().__init__()
        self.stem = stem
        self.as_on_gpu = False  # as on a GPU whatever the device: to count what moves there
        self.project: nn.Module
        if config.downsample == "pool":
            self.unshuffle = False
            self.project = nn.Conv2d(inputs, outputs, 1)
        else:
            self.unshuffle = True
            self.project = ConvNormAct(4 * inputs, outputs, 3 if stem else 1, config.activation)

    def forward(self, x: Tensor) -> Tensor:
        if self.stem and not self.unshuffle:
            return self._stem(x)
        out: Tensor = self.project(F.pixel_unshuffle(x, 2) if self.unshuffle else F.max_pool2d(x, 2))
        return out

    def _stem(self, images: Tensor) -> Tensor:
        """On a GPU by an operator that does not write what is pooled."""
        project, dtype = cast(nn.Conv2d, self.project), kernels.dtype_taken(images)
        by_operator = (self.as_on_gpu or images.is_cuda) and not images.requires_grad
        if by_operator and takes(images.dtype, dtype, *project.weight.shape[1::-1]):
            assert project.bias is not None
            return stem(images, project.weight.to(dtype), project.bias.to(dtype))
        return F.max_pool2d(project(images), 2)


class BlockStage(nn.Module):
    """A stage that ends in blocks, whose activations may be computed again in the backward pass."""

    blocks: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.recompute = False

    def through(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """x (B, d, H, W), words (B, L, D), mask (B, L) -> (B, d, H, W), after all blocks."""
        for block in self.blocks:
            x = recomputed(block, x, words, mask) if self.recompute and self.training else block(x, words, mask)
        return x


class Stage(BlockStage):
    """Half the side, the stage's width, its blocks: (B, dims[index - 1] or 3, H, W) -> (B, dims[index], H/2, W/2)."""

    def __init__(self, config: NetConfig, index: int) -> None:
        super().__init__()
        inputs = config.dims[index - 1] if index else 3
        self.downsample = Downsample(config, inputs, config.dims[index], stem=index == 0)
        self.blocks = nn.ModuleList(config.make_block(index, kernel_size) for kernel_size in config.kernels[index])

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        return self.through(self.downsample(x), words, mask)


class LaConvNet(nn.Module):
    """images (B, 3, S, S) in [0, 1], words (B, L, D), mask (B, L), True = a real word -> the five stage maps.

    Map i is (B, dims[i], S / 2**(i+1), S / 2**(i+1)). Raises ConfigError where a side does not divide by 32.
    """

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.widths: tuple[int, int, int] = config.dims[2:]
        self.stages = nn.ModuleList(Stage(config, index) for index in range(len(STRIDES)))

    def forward(self, images: Tensor, words: Tensor, mask: Tensor) -> list[Tensor]:
        check_sides(images)
        maps: list[Tensor] = []
        # Channels last: 1x1 convolutions are then plain matrix products, and most of the work is 1x1 convolutions.
        x = images.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x, words, mask)
            maps.append(x)
        return maps
