"""Weights of the authors' released code (github.com/luogen1996/LaConvNet, September 2023) under our model's names.

The released network is ours with the presets `s_released` and `b_released`; names and the order of some channels
differ:

- space to depth: theirs puts the C channels of one pixel behind those of another: top left, bottom left, top right,
  bottom right; `pixel_unshuffle` keeps the four pixels of a channel together, row by row;
- filters: theirs come group by group, ours tap by tap. In both, channel ch of the image belongs to group ch % g;
- layer norm: theirs divides by (standard deviation by n - 1) + 1e-6, ours by sqrt(variance by n, + 1e-5). The factor
  between the two deviations goes into the weight; the constants stay different, by 5e-6 / variance - 1e-6 / deviation
  of the result, the only difference in what is computed;
- the enlarging of masks: theirs is corner on corner, a switch of our head.

Held against the released modules with random weights; no file of the authors' own weights has been met.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.heads import HeadsConfig
from laconvnet.pipeline.model.heads.masks import MaskHeadConfig
from laconvnet.pipeline.model.model import ModelConfig, build_model
from laconvnet.pipeline.model.net import PRESETS
from laconvnet.pipeline.model.released_names import module_names

_EMBEDDING = "lang_encoder.embedding.weight"
_PRESETS = ("s_released", "b_released")
_REC = ModelConfig(task="rec", head="points")
_RES = ModelConfig(task="res", head="masks", heads=HeadsConfig(masks=MaskHeadConfig(align_corners=True)))


@dataclass(frozen=True)
class Released:
    """The released network that some weights are for, and the weights under our names."""

    config: ModelConfig
    weights: dict[str, Tensor]


def convert(theirs: Mapping[str, Tensor], words: int, origin: str) -> Released:
    """A whole state dict of the released code, under our names; network and task are read off its names.

    `words` is the length of the vocabulary, PAD and UNK included. Every weight comes out in the shape and type that it
    has in our model. Strict: every tensor is used once and every one of ours is filled. Raises ConfigError, naming
    `origin`, the tensor and the shapes, for whatever does not fit.
    """
    parallel = all(name.startswith("module.") for name in theirs)  # saved from several processes
    left = {name.removeprefix("module.") if parallel else name: tensor for name, tensor in theirs.items()}
    config = _config(left, origin)
    if _EMBEDDING in left and (shape := tuple(left[_EMBEDDING].shape))[:1] != (words,):
        raise ConfigError(
            f"{origin}: {_EMBEDDING} has shape {shape}, the vocabulary {words} words; expected the vocabulary that "
            "these weights were trained with, in its order"
        )
    with torch.device("meta"):
        model = build_model(config, words)
    modules = module_names(config.net(), str(config.head))
    weights = {}
    for name, ours in model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        names = [f"{other}.{leaf}" for other in modules[module]]
        if missing := [other for other in names if other not in left]:
            raise ConfigError(f"{origin}: lacks {missing[0]}, which preset {config.preset} needs; is the file whole?")
        # Theirs are the weights of a 1x1 convolution, ours those of the fused operator.
        shape = (*ours.shape, 1, 1) if name.endswith(".filters.weight") else tuple(ours.shape)
        tensor = _joined([left.pop(other) for other in names], shape, ours.dtype, f"{origin}: {' + '.join(names)}")
        # A copy: a view would carry the rest of its file along into the next one.
        weights[name] = _ordered(tensor, name, config).reshape(ours.shape).to(ours.dtype, copy=True)
    if left:
        raise ConfigError(
            f"{origin}: {next(iter(left))} and {len(left) - 1} more have no place in preset {config.preset} with head "
            f"{config.head}; expected weights of the released code as it was published"
        )
    return Released(config, weights)


def _config(names: Mapping[str, Tensor], origin: str) -> ModelConfig:
    """The released network that has tensors of these names."""
    found = (re.match(r"visual_encoder\.blocks\.(\d)\.(\d+)\.conv1\.linear\.weight$", name) for name in names)
    stages = [int(match[1]) for match in found if match]
    depths = tuple(stages.count(stage) for stage in range(5))
    presets = {PRESETS[preset].depths: preset for preset in _PRESETS}
    if depths not in presets:
        known = " or ".join(f"{depths} ({preset})" for depths, preset in presets.items())
        raise ConfigError(
            f"{origin}: {depths} LaConv blocks in the five stages: expected weights of the released code, {known}"
        )
    segments = any(name.startswith("detection_neck.") for name in names)
    return replace(_RES if segments else _REC, preset=presets[depths])


def _joined(pieces: list[Tensor], shape: tuple[int, ...], dtype: torch.dtype, what: str) -> Tensor:
    """The pieces behind one another, if that gives this shape and finite numbers of this kind."""
    shapes = [tuple(piece.shape) for piece in pieces]
    whole = shapes[0] if len(pieces) == 1 else (sum(piece[0] for piece in shapes), *shapes[0][1:])
    if whole != shape or any(piece[1:] != shape[1:] for piece in shapes):
        raise ConfigError(f"{what}: shape {' + '.join(map(str, shapes))}, expected {shape}")
    tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    if tensor.is_floating_point() != dtype.is_floating_point or not tensor.isfinite().all():
        kind = "real" if dtype.is_floating_point else "whole"
        raise ConfigError(f"{what}: expected finite {kind} numbers, found others in {tensor.dtype}; is the file whole?")
    return tensor


def _ordered(tensor: Tensor, name: str, config: ModelConfig) -> Tensor:
    """The values in our order, for our formulas."""
    if name.endswith(".downsample.project.conv.weight"):
        return _by_channel(tensor)
    if match := re.match(r"visual\.stages\.(\d)\.blocks\.\d+\.filters\.", name):
        return _by_tap(tensor, config.net().groups[int(match[1])])
    if re.match(r"language\.attention\.\d+\.(attention|ffn)_norm\.weight$", name):
        return tensor * math.sqrt((len(tensor) - 1) / len(tensor))
    return tensor


def _by_channel(weight: Tensor) -> Tensor:
    """(outputs, column * row * C, k, k) -> (outputs, C * row * column, k, k)."""
    outputs, inputs, *kernel = weight.shape
    return weight.reshape(outputs, 2, 2, inputs // 4, *kernel).permute(0, 3, 2, 1, 4, 5).reshape(weight.shape)


def _by_tap(filters: Tensor, groups: int) -> Tensor:
    """(g * k*k, ...) -> (k*k * g, ...)."""
    return filters.reshape(groups, -1, *filters.shape[1:]).transpose(0, 1).reshape(filters.shape)
