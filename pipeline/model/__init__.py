"""LaConvNet: the block, the network and its presets, the word encoder, the heads, and what they cost."""

from __future__ import annotations

from pipeline.model.heads.rec import RecHeadConfig
from pipeline.model.heads.vqa import VqaHeadConfig
from pipeline.model.language import LanguageConfig
from pipeline.model.model import Model, ModelConfig, build_model
from pipeline.model.net import PRESETS, LaConvNet, NetConfig

__all__ = [
    "PRESETS",
    "LaConvNet",
    "LanguageConfig",
    "Model",
    "ModelConfig",
    "NetConfig",
    "RecHeadConfig",
    "VqaHeadConfig",
    "build_model",
]
