"""The LaConv block (v2 Sec. 3, Eq. 1-6).

Shape legend: B batch, d block width, H x W its pixels, s packing size, h = H/s, w = W/s, L words, D word width,
c condition width, g groups, k kernel size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet import kernels
from laconvnet.kernels.attention import masked_softmax
from laconvnet.kernels.packed import reads_packed
from laconvnet.pipeline.model import packed_condition
from laconvnet.pipeline.model.blocks.base import MLP, BlockConfig
from laconvnet.pipeline.model.draws import Dropout
from laconvnet.pipeline.model.layers import norm_act, position_code
from laconvnet.pipeline.model.norm import BatchNorm
from laconvnet.pipeline.model.packed_condition import Norm


class Query(nn.Conv2d):
    """The queries of packed pixels, (B, d*s*s, h, w) -> (B, c, h, w), or of the pixels x (B, d, h*s, w*s) and the code
    of their positions (d, h*s, w*s), which is projected by itself: then nothing is summed or packed in memory.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config.dim * config.packing**2, config.condition, 1)
        self.packing = config.packing

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        if code is None:
            return super().forward(x)
        side = self.packing
        by_cell = self.weight.view(len(self.weight), -1, side, side)
        return F.conv2d(x, by_cell, stride=side) + F.conv2d(code[None], by_cell, self.bias, stride=side)


class Attended(nn.Module):
    """The words' values at each place by its weights: weights (B, heads, L, P), value (B, L, c) -> (B, c, P).

    A module of its own, so that a hook sees the weights that are used, whatever made them.
    """

    def forward(self, weights: Tensor, value: Tensor) -> Tensor:
        value = value.view(*value.shape[:2], weights.shape[1], -1).permute(0, 2, 3, 1)
        return (value @ weights.to(value.dtype)).flatten(1, 2)


class Affinity(nn.Module):
    """Multi-head attention from packed pixels to words (v2 Eq. 4): which words matter where.

    image and code as `Query` takes them, words (B, L, D), mask (B, L) -> (B, c, h, w).
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, Dropout(config.affinity_dropout)
        self.scale = 1.0 / math.sqrt(config.condition / config.heads)
        self.query = Query(config)
        self.key = nn.Linear(config.words, config.condition)
        self.value = nn.Linear(config.words, config.condition)
        self.attended = Attended()

    def weights(self, image: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """A of Eq. 4 in float32 or wider, (B, heads, L, h*w); sums to 1 over the real words."""
        return masked_softmax(self.scores(image, words), mask[:, None, :, None], dim=2)

    def scores(self, image: Tensor, words: Tensor, code: Tensor | None = None) -> Tensor:
        """What A is the softmax of, (B, heads, L, h*w)."""
        batch, length, _ = words.shape
        query = self.query(image, code).flatten(2).unflatten(1, (self.heads, -1))
        key = self.key(words).view(batch, length, self.heads, -1).transpose(1, 2)
        found: Tensor = (key * self.scale) @ query
        return found

    def dropped(self, image: Tensor, words: Tensor, mask: Tensor, code: Tensor | None) -> Tensor:
        """A after dropout, (B, heads, L, h*w). Where there is a code, by an operator of one pass."""
        if code is None:
            dropped: Tensor = self.dropout(self.weights(image, words, mask))
            return dropped
        scores = self.scores(image, words, code)
        p, keys = self.dropout.draw(scores)
        keys = None if keys is None else keys.to(scores.device)
        found: Tensor = torch.ops.laconv.attention_weights(scores, mask, keys, p)
        return found

    def forward(self, image: Tensor, words: Tensor, mask: Tensor, code: Tensor | None = None) -> Tensor:
        attended = self.attended(self.dropped(image, words, mask, code), self.value(words))
        side = 1 if code is None else self.query.packing
        sides = [length // side for length in image.shape[2:]]
        found: Tensor = attended.unflatten(2, sides)
        return found.contiguous(memory_format=torch.channels_last)


class Merge(nn.Conv2d):
    """The convolution in front of the unpacking: (B, c, h, w) -> (B, c*s*s, h, w), channel (m, i, j) being channel m of
    pixel (i, j) of a cell; with `packed` (i, j, m), so that a pixel's channels lie together (`kernels.packed`).
    """

    def __init__(self, channels: int, packing: int) -> None:
        super().__init__(channels, channels * packing**2, 1)
        self.packing = packing

    def forward(self, x: Tensor, packed: bool = False) -> Tensor:
        if not packed:
            return super().forward(x)
        assert self.bias is not None
        weight, bias = (
            t.unflatten(0, (-1, self.packing**2)).transpose(0, 1).flatten(0, 1) for t in (self.weight, self.bias)
        )
        return F.conv2d(x, weight, bias).contiguous(memory_format=torch.channels_last)


class ConditionGenerator(nn.Module):
    """The condition C of v2 Eq. 3, in the form of the authors' released code.

    x (B, d, H, W), words (B, L, D), mask (B, L) -> (B, c, H, W). Eq. 3 ends with one activation, here the ReLU behind
    the merge, and the packing is that of v2 Sec. 3.2. What neither has is the code's: biases, a sine code of the
    position before the affinity, and batch norm and a second ReLU after the unpacking.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.packing, self.activation = config.packing, config.activation
        self.affinity = Affinity(config)
        self.merge = Merge(config.condition, config.packing)
        self.norm = BatchNorm(config.condition)

    def packed(self, x: Tensor) -> Tensor:
        """The image with its position code, s x s pixels to a token: (B, d, H, W) -> (B, d*s*s, h, w)."""
        _, channels, height, width = x.shape
        return F.pixel_unshuffle(x + position_code(channels, height, width, x.device, x.dtype), self.packing)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        if self.leaves_packed(x):
            return self.norm(self.merged(x, words, mask), packing=self.packing)  # type: ignore[no-any-return]
        condition = F.relu(self.merge(self.affinity(self.packed(x), words, mask)))
        return norm_act(self.norm, F.pixel_shuffle(condition, self.packing), "relu")

    def leaves_packed(self, x: Tensor) -> bool:
        """Whether the condition for x (B, d, H, W) is best made from the packed map."""
        return self.norm.takes_packed(x, x[:, 0].numel())

    def merged(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """What the condition is made from, before the first ReLU: (B, s*s*c, h, w), as `kernels.packed` has it."""
        _, channels, height, width = x.shape
        code = position_code(channels, height, width, x.device, x.dtype)
        return self.merge(self.affinity(x, words, mask, code), packed=True)  # type: ignore[no-any-return]


class WordCondition(nn.Module):
    """The condition of v2 Tab. 10 "language only": the mean of the real words, (B, D, 1, 1).

    The paper does not say how the words become one vector; without parameters the reported -2.5 G and -3.7 M come out.
    """

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        weights = mask.to(words.dtype)[:, :, None]
        return ((words * weights).sum(1) / weights.sum(1).clamp_min(1))[:, :, None, None]


class Filters(nn.Module):
    """The projection W1, b1 of v2 Eq. 3, fused with the dynamic convolution of Eq. 2 by the operator.

    x (B, d, H, W), condition (B, inputs, H, W) or (B, inputs, 1, 1) -> (B, d, H, W); or, where it `reads_packed`, the
    packed map and the norm that makes the condition of it.
    """

    def __init__(self, config: BlockConfig, inputs: int) -> None:
        super().__init__()
        self.kernel_size, self.groups, self.interleaved = config.kernel_size, config.groups, config.interleaved
        self.dropout = Dropout(config.filter_dropout)
        outputs = config.kernel_size**2 * config.groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        bound = 1.0 / math.sqrt(inputs)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def reads_packed(self, x: Tensor, packing: int) -> bool:
        """Whether a kernel takes the condition for x (B, d, H, W) packed."""
        sizes = (x.shape[1], self.weight.shape[1], packing, self.kernel_size, self.groups, self.interleaved)
        return reads_packed(kernels.dtype_taken(x), *sizes)

    # The norm comes as a plain tuple, its fields: DeepSpeed takes apart what a module is given, and joins it again so.
    def forward(self, x: Tensor, condition: Tensor, norm: tuple[Any, ...] | None = None) -> Tensor:
        sizes = (self.kernel_size, self.groups, *self.dropout.draw(x), self.interleaved)
        if norm is not None:
            return packed_condition.laconv(x, condition, Norm(*norm), self.weight, self.bias, *sizes)
        return kernels.laconv(x, condition, self.weight, self.bias, *sizes)


class LaConvBlock(nn.Module):
    """y = act(x + BN(LaConv(x))), out = y + MLP(y) (v2 Eq. 5): (B, d, H, W) -> (B, d, H, W)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.config = config
        if config.generator == "affinity":
            self.generator: ConditionGenerator | WordCondition = ConditionGenerator(config)
            self.filters = Filters(config, config.condition)
        else:
            self.generator = WordCondition()
            self.filters = Filters(config, config.words)
        self.norm = BatchNorm(config.dim)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.mlp(norm_act(self.norm, self._convolved(x, words, mask), self.config.activation, x))
        return out

    def _convolved(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        generator, filters, packing = self.generator, self.filters, self.config.packing
        norm, condition = None, None
        if (
            isinstance(generator, ConditionGenerator)
            and generator.leaves_packed(x)
            and filters.reads_packed(x, packing)
        ):
            condition = generator.merged(x, words, mask)
            norm = tuple(generator.norm.of_packed(condition, packing))
        found: Tensor = filters(x, generator(x, words, mask) if condition is None else condition, norm)
        return found
