"""What a start of a run goes on from. Where there are checkpoints it never begins anew, and it deletes none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.distributed import Ranks
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import draws
from laconvnet.pipeline.runs import checkpoints, owner, resumable
from laconvnet.pipeline.runs.checkpoints import Checkpoint
from laconvnet.pipeline.runs.layout import CONFIG, step_of
from laconvnet.pipeline.runs.memory import Kept, Memory
from laconvnet.pipeline.runs.version import code_version
from laconvnet.pipeline.training import checkpoint
from laconvnet.pipeline.training.checkpoint import Saved
from laconvnet.pipeline.training.ending import complete
from laconvnet.pipeline.training.session import Source
from laconvnet.pipeline.training.start import check_data
from laconvnet.terminal import complain


@dataclass(frozen=True)
class Choice:
    """The newest whole checkpoint of a run (None for a run without any), and the damaged ones that are newer."""

    checkpoint: Checkpoint | None
    damaged: tuple[Checkpoint, ...]

    @classmethod
    def of(cls, run: Path, there: Iterable[Checkpoint]) -> Choice:
        """Choose among the run's checkpoints, newest first; raises ConfigError where none of them is whole."""
        damaged: list[Checkpoint] = []
        for found in there:
            if found.is_whole:
                return cls(found, tuple(damaged))
            damaged.append(found)
        if damaged:
            raise checkpoints.none_whole(run, damaged)
        return cls(None, ())


def saved(config: TrainConfig, run: Path, ranks: Ranks, memory: Memory | None) -> Saved | None:
    """What to go on from, None for a new run: what an earlier rank left in memory, or the newest checkpoint.

    All of ``ranks`` call this; the main process, which owns the run, looks: another one may see the newest checkpoint
    later, or not yet. Raises ConfigError where the run must not be resumed with this configuration.
    """
    kept = memory.newest() if memory else None
    if kept and kept.record.run != str(run.absolute()):  # one process may train several runs
        kept = None
    in_memory, folder = ranks.from_main(lambda: _place(config, run, kept.record.step if kept else -1))
    if in_memory:
        return ranks.from_main(lambda: Saved.kept(cast("Kept", kept)))
    return Saved.read(folder) if folder else None


def _place(config: TrainConfig, run: Path, kept: int) -> tuple[bool, Path | None]:
    """Whether the state of step ``kept`` in memory (-1: none) is the newest, else the checkpoint that is."""
    if kept >= 0 and all(step_of(folder) < kept for folder in checkpoints.published(run)):
        return True, None  # none of them need be read
    folder = choose(config, run)  # what is newer by its name may be damaged
    return (True, None) if kept > (step_of(folder) if folder else -1) else (False, folder)


def choose(config: TrainConfig, run: Path) -> Path | None:
    """The checkpoint to go on from, None for a new run; newer ones that are damaged are set aside, and told of.

    Only the run's owner may call it. Raises ConfigError where the run must not be resumed with this configuration.
    """
    choice = Choice.of(run, checkpoints.survey(run))
    if choice.checkpoint:
        resumable.check_seal(config, run, choice.checkpoint.folder)
    for found in choice.damaged:
        place = checkpoint.set_aside(found.folder)
        complain(f"{found.folder}: damaged, {found.damage}; set aside as {place.name}")
    return choice.checkpoint.folder if choice.checkpoint else None


def explain(config: TrainConfig, run: Path) -> tuple[list[str], bool]:
    """What a start would do, line by line, and whether it would go to work; nothing is changed."""
    lines = [f"run {run}"]
    try:
        for line in _facts(config, run):
            lines.append(line)
    except (ConfigError, OSError) as error:
        return [*lines, f"would stop: {error}"], False
    return lines, True


def _facts(config: TrainConfig, run: Path) -> Iterator[str]:
    file = run / CONFIG
    if held := owner.holder(run):
        lives = owner.is_alive(run, held)
        yield f"owner: {held}, {'which lives' if lives else 'which is gone'}"
        if lives:
            raise ConfigError(f"{run}: {held} trains here")
    there = list(checkpoints.survey(run))  # to compare them takes reading all of them: once
    for found in there:
        yield f"{found.folder.name}: {_told(found)}"
    if file.exists():
        for key in resumable.differences(config, file):
            verdict = "may differ" if key.allowed else "must not differ"
            yield f"{key.key}: {key.before!r} -> {key.now!r} ({verdict})"
        resumable.check(config, file)
    choice = Choice.of(run, there)
    source = Source.open(config)
    if choice.checkpoint is None:
        yield f"would begin at step 0 of {source.total}"
        return
    resumable.check_seal(config, run, choice.checkpoint.folder)
    own = Saved.read(choice.checkpoint.folder)
    check_data(config, source.examples, own)
    yield f"data: {config.data.folder}, the build that the run was trained on"
    assert choice.checkpoint.marker is not None
    before, now = choice.checkpoint.marker.code, code_version()
    yield f"code: {now or 'of no checkout'}" + (f", saved by {before}" if before != now else "")
    if own.state.get("draws", 1) != draws.VERSION:
        yield f"dropout: rule {own.state.get('draws', 1)} -> {draws.VERSION}: other masks from here on"
    for found in choice.damaged:
        yield f"would set aside {found.folder.name}"
    step = step_of(choice.checkpoint.folder)
    if told := complete(config, run, source.total):
        yield told
    else:
        yield f"would go on from step {step} of {source.total}, {choice.checkpoint.folder}"


def _told(found: Checkpoint) -> str:
    if found.marker is None:
        return f"damaged, {found.damage}"
    size = sum(described["bytes"] for described in found.marker.files.values())
    score, by = found.marker.score, found.marker.validated or found.marker.metric
    return f"whole, {size / 1e6:.1f} MB" + ("" if score is None else f", score {score:.4g}" + (f" {by}" if by else ""))
