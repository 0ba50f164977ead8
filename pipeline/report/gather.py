"""What a report tells of, read from the files in the folders of runs and stage graphs alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laconvnet.files import find_object, read_json, read_object
from laconvnet.pipeline import yaml_files
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.report.tracked import Tracked, tracked
from laconvnet.pipeline.runs import fence, history
from laconvnet.pipeline.runs.history import Span
from laconvnet.pipeline.runs.layout import (
    ANSWERS,
    CONFIG,
    DONE,
    ENVIRONMENT,
    EVALUATIONS,
    FAILED,
    GRAPH,
    JOB,
    LOG,
    TRACKERS,
)
from laconvnet.pipeline.runs.records import is_number, read_lines
from laconvnet.pipeline.runs.scores import validations

_EXPECTED = f"{GRAPH} (a launched stage graph), {LOG} (a run) or the JSON file of an evaluation"
# Numbers of a result that are no score.
_NO_METRICS = ("version", "wordless", "annotated", "source", "partition", "generated", "preset")
_FACTS = {"task": str, "split": str, "run": str, "data": str, "examples": int, "step": int}
# A result is a few kilobytes; an annotation file of a data set, which may lie beside it, is up to a gigabyte.
_LARGEST_RESULT = 1 << 20


@dataclass(frozen=True)
class Run:
    """A training run. ``log`` has one row a logged step, ``validations`` one a validation, in the order of steps.

    ``trackers`` draw its curves.
    """

    folder: Path
    label: str
    log: tuple[dict[str, Any], ...]
    validations: tuple[dict[str, Any], ...]
    config: str
    environment: dict[str, Any]
    trackers: tuple[Tracked, ...] = ()

    @property
    def data(self) -> str | None:
        """The set that it trains on, None where its configuration does not say."""
        try:
            folder = _mapping(_mapping(yaml_files.value(self.config)).get("data")).get("folder")
        except ValueError:
            return None
        return folder if isinstance(folder, str) else None


@dataclass(frozen=True)
class Evaluation:
    """The result of one model on one split; metrics, controls and majority are shares of 1.

    ``annotated`` are the examples that the data set has annotated, of which ``examples`` were scored; None where the
    result does not say. So are ``source`` and ``partition`` of the data set, and ``preset`` of the network; the images
    of ``generated`` data are none of the data set's.
    """

    file: Path
    label: str
    task: str
    split: str
    run: str
    data: str
    examples: int
    step: int
    blank: bool
    metrics: dict[str, float]
    controls: dict[str, dict[str, float]]
    majority: dict[str, float]
    annotated: int | None = None
    source: str | None = None
    partition: str | None = None
    preset: str | None = None
    generated: bool = False

    @property
    def complete(self) -> float | None:
        """The share of what was annotated that the score is of, as a share of 1."""
        return self.examples / self.annotated if self.annotated else None

    @property
    def subject(self) -> tuple[str, str, str]:
        """What two results must have in common to be compared: task, data set and split."""
        return self.task, os.path.realpath(self.data), self.split

    @property
    def where(self) -> str:
        """The set and the split, in words."""
        return f"{Path(self.data).name} {self.split}{' (generated shapes)' if self.generated else ''}"

    def answers(self) -> list[dict[str, Any]]:
        """One row an example, [] where the file beside the result is gone."""
        return list(read_lines(self.file.with_suffix(ANSWERS)))


@dataclass(frozen=True)
class Stage:
    """A stage of a launched graph; ``spans`` is its course.

    ``state`` is done, failed, running (only that which writes the report), unfinished or not started.
    """

    name: str
    title: str
    folder: Path
    command: str
    state: str
    seconds: float | None
    reason: str
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Graph:
    """A launched stage graph, its stages in the order in which they run."""

    name: str
    folder: Path
    stages: tuple[Stage, ...]


@dataclass
class Gathered:
    """Everything found, each thing once; ``left_out`` says of files that could not be read why."""

    graphs: list[Graph] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def gather(places: Sequence[Path]) -> Gathered:
    """Read the folders of runs, stage graphs or evaluations, in this order.

    Raises ConfigError for a folder that is none of them, naming what was expected, for a broken graph.json, and for
    what cannot be read.
    """
    try:
        return _gathered(places)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _gathered(places: Sequence[Path]) -> Gathered:
    found = Gathered()
    for place in places:
        folder = Path(os.path.abspath(place))
        if not folder.is_dir():
            raise ConfigError(f"{place}: no such folder; expected one that holds {_EXPECTED}")
        graph = _graph(folder)
        if graph is not None:
            if graph not in found.graphs:
                found.graphs.append(graph)
            for stage in graph.stages:
                _look_through(stage.folder, found)
        elif not _look_through(folder, found):
            raise ConfigError(f"{place}: holds none of {_EXPECTED}; expected a folder with one of them")
    return found


def _look_through(folder: Path, found: Gathered) -> bool:
    """Add the runs and results in a folder and in those directly below it; False where there are none."""
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    runs = [place for place in (folder, *below) if (place / LOG).is_file()]
    holding = (folder, *below, *(run / EVALUATIONS for run in runs))
    files = [file for place in holding for file in sorted(place.glob("*.json"))]
    results = [result for file in files if (result := _evaluation(file, found.skipped)) is not None]
    for place in runs:
        if place not in [run.folder for run in found.runs]:
            found.runs.append(_run(place, found.skipped))
    for result in results:
        if result.file not in [known.file for known in found.evaluations]:
            found.evaluations.append(result)
    return bool(runs or results)


def _run(folder: Path, skipped: list[str]) -> Run:
    # After a resume the steps since the last checkpoint were made again: the later row of a step is what counts.
    by_step = {row["step"]: row for row in read_lines(folder / LOG) if isinstance(row.get("step"), int)}
    config = folder / CONFIG
    return Run(
        folder,
        label(folder),
        tuple(by_step[step] for step in sorted(by_step)),
        tuple(validations(folder)),
        config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        _object(folder / ENVIRONMENT, skipped) or {},
        tuple(tracked(folder, _object(folder / TRACKERS, skipped) or {})),
    )


def newest_result(folder: Path) -> dict[str, Any] | None:
    """The result that an evaluation has written last into a folder, or for the run that it is; None where there is
    none."""
    files = [file for place in (folder, folder / EVALUATIONS) for file in place.glob("*.json")]
    newest = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
    return next((result for file in newest if (result := _result(file, []))), None)


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The scores among the numbers of a result."""
    return _numbers({key: item for key, item in result.items() if key not in (*_FACTS, *_NO_METRICS)})


def _result(file: Path, skipped: list[str]) -> dict[str, Any] | None:
    """What an evaluation has written, None for a file that is no result."""
    if not file.is_file() or file.stat().st_size > _LARGEST_RESULT:
        return None
    value = _object(file, skipped)
    if value is None or not all(type(value.get(key)) is kind for key, kind in _FACTS.items()) or value["examples"] < 1:
        return None
    return value if metrics_of(value) else None


def _evaluation(file: Path, skipped: list[str]) -> Evaluation | None:
    value = _result(file, skipped)
    if value is None:
        return None
    return Evaluation(
        file=file,
        label=label(Path(os.path.abspath(value["run"]))),
        blank=value.get("blank") is True,
        generated=value.get("generated") is True,
        source=_text(value.get("source")),
        partition=_text(value.get("partition")),
        preset=_text(value.get("preset")),
        annotated=annotated if type(annotated := value.get("annotated")) is int and annotated > 0 else None,
        metrics=metrics_of(value),
        controls={str(name): _numbers(scores) for name, scores in _mapping(value.get("controls")).items()},
        majority=_numbers(value.get("majority")),
        **{key: value[key] for key in _FACTS},
    )


def _graph(folder: Path) -> Graph | None:
    """The stage graph launched in a folder, None where there is none."""
    file = folder / GRAPH
    if not file.is_file():
        return None
    try:
        value = read_object(file)
        stages = tuple(_stage(folder, entry) for entry in value["stages"])
        return Graph(str(value["name"]), folder, stages)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: not a stage graph ({type(error).__name__}: {error}); launch it again") from error


def _stage(root: Path, entry: dict[str, Any]) -> Stage:
    folder = root / Path(entry["folder"]).name
    tasks = entry.get("array")
    places = history.places(folder, tasks if isinstance(tasks, int) else None)
    done = find_object(folder / DONE)
    failed = [(place, found) for place in places if (found := find_object(place / FAILED)) is not None]
    state, record = "not started", done or (failed[0][1] if failed else {})
    reason = str(record.get("reason", ""))
    if done is not None and done.get("identity") == entry["identity"]:
        state = "done"
    elif failed:
        state = "failed"
        if tasks:
            more = f" ({len(failed)} of {tasks} tasks failed)" if len(failed) > 1 else ""
            reason = f"task {failed[0][0].name}: {reason}{more}"
    elif fence.stage() in places:
        state, reason = "running", "writes this page"
    elif any((place / JOB).exists() for place in places):
        state = "unfinished"
    seconds = record.get("seconds")
    return Stage(
        str(entry["name"]),
        str(entry["title"]),
        folder,
        str(entry["command"]),
        state,
        float(seconds) if isinstance(seconds, int | float) and is_number(seconds) else None,
        reason,
        history.spans(places),
    )


def label(folder: Path) -> str:
    """What people call a run: the title of the stage that it is, or the name of its folder."""
    for stage in (folder, folder.parent):
        graph = _graph(stage.parent)
        for entry in graph.stages if graph is not None else ():
            if entry.folder == stage:
                called = entry.title or entry.name
                return called if stage == folder else f"{called}/{folder.name}"
    return folder.name


def _object(file: Path, skipped: list[str]) -> dict[str, Any] | None:
    try:
        return _mapping(read_json(file)) or None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        skipped.append(str(error))
        return None


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _numbers(value: object) -> dict[str, float]:
    return {str(key): float(item) for key, item in _mapping(value).items() if is_number(item)}
