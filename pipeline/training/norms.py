"""Which implementation the batch norms of a run train with."""

from __future__ import annotations

import torch
from torch import nn

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.fused_norm import DTYPES, EXTENSION
from laconvnet.pipeline.model.norm import BatchNorm
from laconvnet.pipeline.training.apex import has_apex, without_apex
from laconvnet.pipeline.training.engine import AUTOCAST, EngineConfig


def fused(config: EngineConfig, device: torch.device) -> bool:
    """Whether apex's kernels are taken; raises ConfigError where they are asked for and cannot be."""
    lacks = []
    if device.type != "cuda":
        lacks.append("it runs on a GPU only")
    elif not has_apex(EXTENSION):
        lacks.append(without_apex(EXTENSION))
    if AUTOCAST.get(config.precision, torch.float32) not in DTYPES:
        lacks.append(f"its kernels do not know {config.precision}")
    if config.compile:
        lacks.append("torch.compile would have to stop at each of them, and joins these operations itself")
    if config.norms == "apex" and lacks:
        raise ConfigError(f"engine.norms: 'apex': {'; '.join(lacks)}; use 'auto' or 'torch'")
    return config.norms != "torch" and not lacks


def prepare(model: nn.Module, fuse: bool, freeze: bool) -> None:
    """Set the batch norms of a model that is about to be trained."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.fused = fuse
            if freeze:
                module.freeze()
