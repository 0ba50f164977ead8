"""A trained model back from its run folder, ready to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """The EMA weights of a run's state after ``step`` (the plain ones where it keeps no EMA).

    ``origin`` says in words which checkpoint it is, and why that one.
    """

    config: TrainConfig
    vocabulary: Vocabulary
    model: Model
    task: Task
    step: int
    device: torch.device
    origin: str = ""


def restore(place: Path, last: bool = False) -> Restored:
    """The model of a run, by the checkpoint that stands for it (`runs.checkpoints.choose`), or of a named checkpoint.

    Raises ConfigError where the folder is no run or has not saved a checkpoint yet.
    """
    run = checkpoints.run_of(place)
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run}: no {CONFIG} in it; expected the --run folder of `laconvnet train`")
    config = configuration.load(run / CONFIG)
    chosen = checkpoints.choose(place, last)
    resumable.check_seal(config, run, chosen.folder)
    state, words = checkpoint.read(chosen.folder)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    return of_state(config, Vocabulary.from_json(words), state, device, f"{run}: {chosen}")


def of_state(
    config: TrainConfig, vocabulary: Vocabulary, state: dict[str, Any], device: torch.device, origin: str = ""
) -> Restored:
    """The model of a run's state, with weights of its own: the state may change afterwards."""
    model = rebuild(config, vocabulary, state["ema"] or state["model"])
    task = TASKS[config.model.task](config.model, vocabulary)
    return Restored(config, vocabulary, model.to(device).eval(), task, int(state["step"]), device, origin)
