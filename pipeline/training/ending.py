"""Whether a run is complete: all of its steps are done and validated, or its validations have ended it."""

from __future__ import annotations

from pathlib import Path

from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.runs.layout import step_of
from laconvnet.pipeline.runs.scores import Criterion, scores_of, standing, validations
from laconvnet.pipeline.training.checkpoint import folder_of


def complete(config: TrainConfig, run: Path, total: int) -> str | None:
    """How a run is complete, in words; None where a start has something left to do.

    By what is on the disk and what is asked for now: with more ``validate.patience`` a run that ended early goes on.
    """
    criterion = config.validate.criterion(config.model.task) if config.validate.every else None
    if checkpoints.is_whole(folder_of(run, total)) and (criterion is None or is_validated(run, total, criterion)):
        return f"complete: all {total} steps are done"
    newest = checkpoints.newest(run) if criterion and config.validate.patience else None
    if not newest or not criterion or not is_validated(run, step_of(newest), criterion):
        return None
    stands = standing(criterion, scores_of(validations(run), criterion), step_of(newest))
    if not stands or stands.waited < config.validate.patience:
        return None
    best = f"best at step {stands.best_step} ({stands.best:.4f} {criterion})"
    return f"complete: ended early at step {stands.step} of {total}, {best}"


def is_validated(run: Path, step: int, criterion: Criterion) -> bool:
    """Whether the checkpoint of this step says that it was validated so."""
    try:
        return checkpoints.read_marker(folder_of(run, step)).validated == criterion
    except checkpoints.Damaged:
        return False
