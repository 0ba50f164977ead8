"""Which checkpoints a run has published, and whether each still is what was written.

A checkpoint is absent, whole or damaged; where none of the three can be told, the storage's OSError is raised. Damage
is what was seen in the bytes, never an error of reading them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import xxhash

from laconvnet.files import names_in, read_object, retried
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs.layout import CHECKPOINTS, COMMIT, is_last, is_step, step_folder, step_of
from laconvnet.pipeline.runs.scores import Criterion

VERSION = 2  # 1 does not say which configuration, data and code it is of
_READ = (1, VERSION)
_OTHERS = "get it back from a copy, or name another one of the run's checkpoints/, such as checkpoints/last"


@dataclass(frozen=True)
class Facts:
    """What the commit marker says of a checkpoint: its step, its score, and of which configuration, data and code.

    Where the step was validated ``metric`` and ``split`` say how; ``score`` is None then where it must not choose.
    """

    step: int
    score: float | None = None
    config: str | None = None
    data: str | None = None
    code: str | None = None
    metric: str | None = field(default=None, kw_only=True)
    split: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Marker:
    """What the commit marker says of a checkpoint.

    ``files`` are the size and checksum of each. Of version 1 ``config`` (see `resumable.seal`), ``data`` (the set's
    fingerprint) and ``code`` (`git describe`) are None; of later ones ``code`` may be. A score without a ``metric`` is
    one that an older version kept by, the lower the better.
    """

    version: int
    step: int
    files: dict[str, dict[str, Any]]
    score: float | None = None
    config: str | None = None
    data: str | None = None
    code: str | None = None
    metric: str | None = None
    split: str | None = None

    @property
    def validated(self) -> Criterion | None:
        """How the step was validated; None where it was not."""
        return Criterion(self.metric, self.split) if self.metric and self.split else None

    def score_by(self, criterion: Criterion) -> float | None:
        """Its score, where it is one by this criterion; an older version does not name what it was kept by."""
        metric = self.metric or criterion.metric
        return self.score if (metric, self.split) == (criterion.metric, criterion.split) else None


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint: its marker where it is whole, else what is wrong with it."""

    folder: Path
    marker: Marker | None
    damage: str | None = None

    @property
    def is_whole(self) -> bool:
        return self.marker is not None


class Damaged(ValueError):
    """A checkpoint's files are not those that were published; the message says what was seen."""


def published(run: Path) -> list[Path]:
    """The folders of a run's checkpoints, oldest first. Publishing is a rename, so each once was whole.

    Raises OSError where they cannot be listed.
    """
    folder = run / CHECKPOINTS
    return sorted((folder / name for name in names_in(folder) if is_step(name)), key=step_of)


def survey(run: Path) -> Iterator[Checkpoint]:
    """The checkpoints of a run, newest first, each inspected when it comes."""
    return map(inspect, reversed(published(run)))


def newest(run: Path) -> Path | None:
    """The newest checkpoint that is whole, or None."""
    return next((found.folder for found in survey(run) if found.is_whole), None)


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint was published here and its files are still what its marker says."""
    return retried(folder, folder.exists) and inspect(folder).is_whole


def inspect(folder: Path) -> Checkpoint:
    """Compare the files of a checkpoint with its marker.

    Raises ConfigError for one that a newer version has written, OSError for what cannot be read.
    """
    try:
        marker = read_marker(folder)
        for name, described in marker.files.items():
            _compare(folder / name, described)
    except Damaged as error:
        return Checkpoint(folder, None, f"{error}")
    return Checkpoint(folder, marker)


def read_marker(folder: Path) -> Marker:
    """The commit marker of a checkpoint.

    Raises Damaged where it is gone or no marker, ConfigError for one of a newer version, OSError as `retried`.
    """
    file = folder / COMMIT
    try:
        found = read_object(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(f"{COMMIT} is gone") from error
    except ValueError as error:
        raise Damaged(f"{COMMIT} is not what was written ({error})") from error
    version = found.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ConfigError(
            f"{file}: version {version}, expected one of {', '.join(map(str, _READ))}: a newer laconvnet has written "
            "it; update this one, or start another --run"
        )
    files = found.get("files")
    if version not in _READ or not isinstance(found.get("step"), int) or not isinstance(files, dict) or not files:
        raise Damaged(f"{COMMIT} is not what was written (its version, step or files)")
    known = {name: found.get(name) for name in ("score", "config", "data", "code", "metric", "split")}
    return Marker(version, found["step"], files, **known)


@dataclass(frozen=True)
class Chosen:
    """The checkpoint that stands for a run, and why it is that one."""

    folder: Path
    why: str

    @property
    def step(self) -> int:
        return step_of(self.folder)

    def __str__(self) -> str:
        return f"step {self.step}, {self.why}"


def choose(place: Path, last: bool = False) -> Chosen:
    """The checkpoint that stands for a run folder: the best by its validations, where those choose, else the last.

    The last in any case with ``last``, and for RUN/checkpoints/last; a checkpoint's folder is that checkpoint. Raises
    ConfigError where there is none, and where it is damaged: what was asked for is not there, and another one may be
    named instead.
    """
    if is_last(place):
        place, last = place.parents[1], True
    if is_checkpoint(place):
        found = inspect(place)
        if not found.is_whole:
            raise ConfigError(f"{place}: damaged, {found.damage}; use another checkpoint")
        return Chosen(place, "as it was named")
    best = None if last else _best(place)
    return best or Chosen(_last(place), "its last checkpoint")


def resolve(place: Path) -> Path:
    """The folder of the checkpoint that stands for a run folder, or that is named; raises ConfigError as `choose`."""
    return choose(place).folder


def is_checkpoint(place: Path) -> bool:
    """Whether this is the folder of a checkpoint, of a run or by its marker."""
    of_a_run = place.parent.name == CHECKPOINTS and is_step(place.name)
    return of_a_run or retried(place / COMMIT, (place / COMMIT).exists)


def run_of(place: Path) -> Path:
    """The run that a place is of: that of a checkpoint's folder, else itself."""
    return place.parents[1] if place.parent.name == CHECKPOINTS else place


def _best(run: Path) -> Chosen | None:
    """The best checkpoint of a run, by what its newest validation went by; None where no validation chooses."""
    markers: dict[int, Marker] = {}
    unknown: list[str] = []
    for folder in published(run):
        try:
            markers[step_of(folder)] = read_marker(folder)
        except Damaged as error:
            unknown.append(f"{folder}: damaged, {error}, so it does not say how good it is")
    validated = [marker for marker in markers.values() if marker.validated]
    if not validated or validated[-1].score is None:
        return None
    if unknown:
        raise ConfigError(f"{unknown[0]}; {_OTHERS}")
    criterion = cast("Criterion", validated[-1].validated)
    scores = {step: score for step, marker in markers.items() if (score := marker.score_by(criterion)) is not None}
    step = cast("int", criterion.best(scores))
    found = inspect(run / CHECKPOINTS / step_folder(step))
    if not found.is_whole:
        raise ConfigError(f"{found.folder}: the best checkpoint by {criterion} is damaged, {found.damage}; {_OTHERS}")
    return Chosen(found.folder, f"its best by {criterion} ({scores[step]:.4f})")


def _last(run: Path) -> Path:
    """The newest checkpoint of a run."""
    found_all = survey(run)
    first = next(found_all, None)
    if first is None:
        raise ConfigError(f"{run}: holds no checkpoint; expected a run folder of `laconvnet train` that has saved one")
    if not first.is_whole:
        older = next((found.folder for found in found_all if found.is_whole), None)
        way = "none before it is whole: get one back from a copy"
        if older:
            way = f"{older} is whole: the run goes on from there when it is started again, and --init_from can name it"
        raise ConfigError(f"{first.folder}: the newest checkpoint is damaged, {first.damage}; {way}")
    return first.folder


def none_whole(run: Path, damaged: Sequence[Checkpoint]) -> ConfigError:
    """What is said of a run all of whose checkpoints are damaged: it must not begin anew over them by itself."""
    told = "; ".join(f"{found.folder.name}: {found.damage}" for found in damaged)
    return ConfigError(
        f"{run}: none of its checkpoints is whole ({told}): get one back from a copy, or start another --run; a run "
        "never begins anew beside its own checkpoints"
    )


def describe(file: Path) -> dict[str, Any]:
    """Size and checksum of a file, as the marker keeps them. Raises OSError as `retried`."""
    return retried(file, lambda: _described(file))


def _described(file: Path) -> dict[str, Any]:
    digest, size = xxhash.xxh3_64(), 0
    with file.open("rb") as data:
        while block := data.read(1 << 22):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "xxh3": digest.hexdigest()}


def _compare(file: Path, described: Any) -> None:
    try:
        found = describe(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(f"{file.name} is gone") from error
    if found == described:
        return
    # A read that was short, or went wrong once, is no proof: what is damaged is so twice.
    again = describe(file)
    if again == described:
        return
    if not isinstance(described, dict) or again["bytes"] != described.get("bytes"):
        expected = described.get("bytes") if isinstance(described, dict) else described
        raise Damaged(f"{file.name} has {again['bytes']} bytes, {expected} were written")
    raise Damaged(f"{file.name} holds other bytes than were written")
