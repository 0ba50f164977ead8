"""A trained model back from its run folder, ready to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import Model
from laconvnet.pipeline.runs import checkpoints, resumable
from laconvnet.pipeline.runs.layout import CONFIG
from laconvnet.pipeline.tasks import TASKS, Task
from laconvnet.pipeline.training import checkpoint
from laconvnet.pipeline.training.start import rebuild


@dataclass(frozen=True)
class Restored:
    """The EMA weights of a run's newest checkpoint (the plain ones where it keeps no EMA)."""

    config: TrainConfig
    vocabulary: Vocabulary
    model: Model
    task: Task
    step: int
    device: torch.device


def restore(run: Path) -> Restored:
    """Raises ConfigError where the folder is no run or has not saved a checkpoint yet."""
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run}: no {CONFIG} in it; expected the --run folder of `laconvnet train`")
    config = configuration.load(run / CONFIG)
    place = checkpoints.resolve(run)
    resumable.check_seal(config, run, place)
    state, words = checkpoint.read(place)
    vocabulary = Vocabulary.from_json(words)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    model = rebuild(config, vocabulary, state["ema"] or state["model"])
    task = TASKS[config.model.task](config.model, vocabulary)
    return Restored(config, vocabulary, model.to(device).eval(), task, int(state["step"]), device)
