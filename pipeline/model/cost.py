"""What a model costs: parameters and multiply-adds, counted the way the papers count them."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import kernels  # noqa: F401  (the operators that are counted)

PARTS = ("language", "visual", "head")


def cost(model: nn.Module, size: int, words: int = 15) -> dict[str, Any]:
    """Parameters and multiply-adds of one picture of `size` x `size` with one expression of `words` words.

    Multiply-adds, not twice their number: convolutions, linear layers, the recurrence, both attention products and the
    dynamic convolution; batch norm, activations, softmax, pooling and resizing are not counted, which is the papers'
    "FLOPs". All three parts are included: the word encoder without the look-up, the visual network and the head.

    Returns {"params", "params_without_words", "macs", "parts": {"language" | "visual" | "head": {"params", "macs"}}};
    "words" are the word vectors. The model is traced as a copy without data: neither its state nor any random state
    changes. Raises ConfigError where `size` does not divide by 32.
    """
    twin = _without_data(model).eval()
    images = torch.empty(1, 3, size, size, device="meta")
    tokens = torch.empty(1, words, dtype=torch.int64, device="meta")
    mapping = {torch.ops.laconv.dynamic_conv: _dynamic_conv_flops}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        twin(images, tokens)
    counts = counter.get_flop_counts()
    params = {part: _parameters(getattr(model, part)) for part in PARTS}
    macs = {part: sum(counts[f"{type(model).__name__}.{part}"].values()) // 2 for part in PARTS}
    embedding = model.get_submodule("language.embedding")
    return {
        "params": sum(params.values()),
        "params_without_words": sum(params.values()) - _parameters(embedding),
        "macs": counter.get_total_flops() // 2,
        "parts": {part: {"params": params[part], "macs": macs[part]} for part in PARTS},
    }


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


def _dynamic_conv_flops(x_shape: list[int], filters_shape: list[int], kernel_size: int, *_: Any, **__: Any) -> int:
    return 2 * math.prod(x_shape) * kernel_size**2
