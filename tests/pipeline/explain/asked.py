"""Models that are asked without having been trained, and an image that is not square."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.inference.predictor import Predictor
from laconvnet.pipeline.inference.restore import Restored
from laconvnet.pipeline.model import Model, build_model
from laconvnet.pipeline.tasks import TASKS

TINY = Path(__file__).parents[1] / "training" / "tiny.yaml"
VOCABULARY = Vocabulary.build(["the red circle on the left of a box"], ["yes", "no", "2"])
TEXT = "the red Zyzzyva, left"  # of four words, one not known


def restored(*keys: str) -> Restored:
    """A model of the smallest configuration, with norms and filters that are not those of a fresh one."""
    config = configuration.load(TINY, ("--data.folder", "none", *keys))
    torch.manual_seed(0)
    model = build_model(config.model, len(VOCABULARY), len(VOCABULARY.answers)).eval()
    for name, tensor in model.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    task = TASKS[config.model.task](config.model, VOCABULARY)
    return Restored(config, VOCABULARY, model, task, 3, torch.device("cpu"), "made")


def asked(*keys: str) -> tuple[Predictor, Model]:
    ready = restored(*keys)
    return Predictor(ready), ready.model


def image(width: int = 90, height: int = 60) -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)
