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

_FACTS = {"config", "vocabulary", "step"}  # what an exported file says of its weights


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


def restore(place: Path, last: bool = False, device: torch.device | None = None) -> Restored:
    """The model of a run, by the checkpoint that stands for it (`runs.checkpoints.choose`), or of a named checkpoint.

    On the first GPU where there is one, if no ``device`` is named. Raises ConfigError where the folder is no run or has
    not saved a checkpoint yet.
    """
    run = checkpoints.run_of(place)
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run}: no {CONFIG} in it; expected the --run folder of `laconvnet train`")
    config = configuration.load(run / CONFIG)
    chosen = checkpoints.choose(place, last)
    resumable.check_seal(config, run, chosen.folder)
    state, words = checkpoint.read(chosen.folder)
    return of_state(config, Vocabulary.from_json(words), state, device or _usual(), f"{run}: {chosen}")


def restore_file(file: Path, device: torch.device | None = None) -> Restored:
    """The model of a file of `laconvnet export --format safetensors`. Raises ConfigError for another one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            facts = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{file}: no file of safetensors that can be read ({error})") from error
    if missing := _FACTS - facts.keys():
        raise ConfigError(
            f"{file}: {', '.join(sorted(missing))}: not in its metadata; expected a file of `laconvnet export`"
        )
    config = configuration.parse(facts["config"], str(file))
    try:
        vocabulary = Vocabulary.from_json(facts["vocabulary"])
        return of_state(config, vocabulary, {"ema": weights, "step": int(facts["step"])}, device or _usual(), str(file))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{file}: its weights and metadata do not fit together ({error}); export it again") from error


def _usual() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def of_state(
    config: TrainConfig, vocabulary: Vocabulary, state: dict[str, Any], device: torch.device, origin: str = ""
) -> Restored:
    """The model of a run's state, with weights of its own: the state may change afterwards."""
    model = rebuild(config, vocabulary, state["ema"] or state["model"])
    task = TASKS[config.model.task](config.model, vocabulary)
    return Restored(config, vocabulary, model.to(device).eval(), task, int(state["step"]), device, origin)
