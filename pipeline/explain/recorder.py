"""What the LaConv blocks of a model compute in one pass: their affinities and conditions, by hooks on their modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.explain.explanation import Block, Floats
from laconvnet.pipeline.model import Model, ModelConfig
from laconvnet.pipeline.model.blocks.laconv import ConditionGenerator, LaConvBlock
from laconvnet.pipeline.model.packed_condition import Norm

LAST = 5  # the number of the last stage, of the network's five and of the plug-in's three


@dataclass
class Recorded:
    """A block at its place, and what it computed last: weights (B, heads, L, h*w) and condition (B, c, H, W)."""

    stage: int
    place: int
    module: LaConvBlock
    weights: Tensor | None = None
    condition: Tensor | None = None

    def take_weights(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A hook before `Attended`."""
        self.weights = inputs[0]

    def take_condition(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A hook before `Filters`."""
        _, condition, norm = inputs
        self.condition = condition if norm is None else Norm(*norm).condition(condition)

    def block(self, words: int) -> Block:
        """What was computed for the first image of the batch and so many words."""
        assert self.weights is not None
        assert self.condition is not None
        filters, packing = self.module.filters, self.module.config.packing
        sides = [side // packing for side in self.condition.shape[2:]]
        return Block(
            stage=self.stage,
            place=self.place,
            affinity=_array(self.weights[0, :, :words].unflatten(2, sides)),
            condition=_array(self.condition[0]),
            weight=_array(filters.weight),
            bias=_array(filters.bias),
            groups=filters.groups,
        )


@contextmanager
def recording(model: Model) -> Iterator[list[Recorded]]:
    """Within, every block of the model records what it computes; the pass itself stays as it is, to the bit.

    Raises ConfigError for a model of other blocks, or whose filters are made from the words alone.
    """
    check(model.config)
    recorded = list(_blocks(model))
    with ExitStack() as hooks:
        for each in recorded:
            generator = each.module.generator
            assert isinstance(generator, ConditionGenerator)
            hooks.enter_context(generator.affinity.attended.register_forward_pre_hook(each.take_weights))
            hooks.enter_context(each.module.filters.register_forward_pre_hook(each.take_condition))
        yield recorded


def check(config: ModelConfig) -> None:
    """Raises ConfigError for a model that `recording` does not take."""
    if config.block != "laconv" or config.generator != "affinity":
        raise ConfigError(
            f"explain: a model of block {config.block} and generator {config.generator} does not weigh words by place; "
            "expected block laconv and generator affinity"
        )


def _blocks(model: Model) -> Iterator[Recorded]:
    stages = model.visual.stages
    for stage, module in enumerate(stages, start=LAST + 1 - len(stages)):
        blocks = module.blocks
        assert isinstance(blocks, nn.ModuleList)
        for place, block in enumerate(blocks, start=1):
            assert isinstance(block, LaConvBlock)
            yield Recorded(stage, place, block)


def _array(values: Tensor) -> Floats:
    found: Floats = values.detach().to("cpu", torch.float32).numpy()
    return found
