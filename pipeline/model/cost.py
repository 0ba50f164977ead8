"""What a model costs: parameters and multiply-adds, counted the way the papers count them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from laconvnet import kernels  # noqa: F401  (the operators that are counted)
from laconvnet.pipeline.model.blocks import BLOCKS

PARTS = ("language", "visual", "head")


def cost(model: nn.Module, size: int, words: int = 15) -> dict[str, Any]:
    """Parameters and multiply-adds of one image of `size` x `size` with one expression of `words` words.

    Multiply-adds, not twice their number: convolutions, linear layers, the recurrence, both attention products and the
    dynamic convolution; batch norm, activations, softmax, pooling and resizing are not counted, which is the papers'
    "FLOPs". All three parts are included: the word encoder without the look-up, the visual network and the head.

    Returns {"params", "params_without_words", "macs", "parts": {"language" | "visual" | "head": {"params", "macs"}},
    "layers": [{"layer", "params", "macs"}]}; "words" are the word vectors, a layer is named by its place in the model,
    and the layers of a part add up to the part. The model is traced as a copy without data: neither its state nor any
    random state changes. Raises ConfigError where `size` does not divide by 32.
    """
    twin = _without_data(model).eval()
    images = torch.empty(1, 3, size, size, device="meta")
    tokens = torch.empty(1, words, dtype=torch.int64, device="meta")
    mapping = {torch.ops.laconv.laconv: _laconv_flops}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        twin(images, tokens)
    counts = counter.get_flop_counts()

    def macs(name: str) -> int:
        found: dict[Any, int] = counts.get(f"{type(model).__name__}.{name}", {})
        return sum(found.values()) // 2

    parts = {part: {"params": _parameters(getattr(model, part)), "macs": macs(part)} for part in PARTS}
    embedding = model.get_submodule("language.embedding")
    return {
        "params": _parameters(model),
        "params_without_words": _parameters(model) - _parameters(embedding),
        "macs": counter.get_total_flops() // 2,
        "parts": parts,
        "layers": [row for part in PARTS for row in _layers(part, getattr(model, part), macs)],
    }


def _layers(name: str, module: nn.Module, macs: Callable[[str], int]) -> Iterator[dict[str, Any]]:
    """A row for every block, change of stage or neck: parts and what holds a list of modules are opened."""
    lists = any(isinstance(child, nn.ModuleList) for child in module.children())
    own = {"params": _parameters(module), "macs": macs(name)}
    if isinstance(module, nn.ModuleList) or name in PARTS or (lists and not isinstance(module, tuple(BLOCKS.values()))):
        for child, inner in module.named_children():
            for row in _layers(f"{name}.{child}", inner, macs):
                own = {what: own[what] - row[what] for what in own}
                yield row
        if isinstance(module, nn.ModuleList):
            return  # is never called: all that it has is its children's
    if any(own.values()):
        yield {"layer": name, **own}


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _without_data(model: nn.Module) -> nn.Module:
    """A copy on the meta device, made without copying a single value."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(model, memo)


def _laconv_flops(
    x_shape: list[int],
    cond_shape: list[int],
    weight_shape: list[int],
    bias_shape: Any,
    kernel_size: int,
    *_: Any,
    **__: Any,
) -> int:
    """The projection of the filters, at as many pixels as the condition has, and the convolution with them."""
    projection = cond_shape[0] * math.prod(cond_shape[2:]) * math.prod(weight_shape)
    return 2 * (projection + math.prod(x_shape) * kernel_size**2)
