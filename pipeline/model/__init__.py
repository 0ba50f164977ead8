"""LaConvNet: the block, the network and its presets, the word encoder, the heads, and what they cost."""

from __future__ import annotations

from laconvnet.pipeline.model.heads import HeadsConfig
from laconvnet.pipeline.model.language import LanguageConfig
from laconvnet.pipeline.model.model import Model, ModelConfig, build_model
from laconvnet.pipeline.model.net import PRESETS, LaConvNet, NetConfig

__all__ = [
    "PRESETS",
    "HeadsConfig",
    "LaConvNet",
    "LanguageConfig",
    "Model",
    "ModelConfig",
    "NetConfig",
    "build_model",
]
