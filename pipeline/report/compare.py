"""Runs side by side: those of one task on one set, by what differs in their configurations."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconvnet.pipeline import yaml_files
from laconvnet.pipeline.report.curves import overlaid
from laconvnet.pipeline.report.gather import Evaluation, Gathered, Run
from laconvnet.pipeline.report.scores import headline

_SEED = "seed"  # what runs of one arm may differ in
_NAMING = 3  # so many keys at most make the name of an arm
# Student's t for 95 % of both sides, by degrees of freedom from 1; of more than these the last, which is a little wide.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class Interval:
    """The mean of a score over the runs of an arm, and half of its 95 % interval; None of a single run."""

    mean: float
    half: float | None
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Interval:
        """Raises StatisticsError where there are none."""
        count = len(values)
        if count < 2:
            return Interval(statistics.fmean(values), None, count)
        t = _T[min(count - 1, len(_T)) - 1]
        return Interval(statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(count), count)


@dataclass(frozen=True)
class Arm:
    """Runs whose configurations differ in the seed at most; ``scores`` by what was scored: set, split and metric."""

    name: str
    runs: tuple[Run, ...]
    settings: dict[str, str]  # the keys in which the arms differ
    scores: dict[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """The arms of one task on one set; ``curves`` is the data URI of their losses in one image."""

    title: str
    arms: tuple[Arm, ...]
    keys: tuple[str, ...]
    subjects: tuple[str, ...]
    curves: str | None


def comparisons(found: Gathered) -> list[Comparison]:
    """A comparison for each task and set that several of the runs found have trained on."""
    groups: dict[tuple[str, str], list[tuple[Run, dict[str, str]]]] = {}
    for run in found.runs:
        settings = _settings(run)
        if run.data is not None and "model.task" in settings:
            groups.setdefault((settings["model.task"], os.path.realpath(run.data)), []).append((run, settings))
    return [_compared(*group, found.evaluations) for group in groups.items() if len(group[1]) > 1]


def _compared(
    about: tuple[str, str], runs: Sequence[tuple[Run, dict[str, str]]], evaluations: Sequence[Evaluation]
) -> Comparison:
    by_arm: dict[str, list[tuple[Run, dict[str, str]]]] = {}
    for run, settings in runs:
        rest = {key: value for key, value in settings.items() if key != _SEED}
        by_arm.setdefault(json.dumps(rest, sort_keys=True), []).append((run, rest))
    first = [members[0][1] for members in by_arm.values()]
    keys = [
        key for key in sorted({key for rest in first for key in rest}) if len({rest.get(key) for rest in first}) > 1
    ]
    arms = tuple(_arm([run for run, _ in members], members[0][1], keys, evaluations) for members in by_arm.values())
    subjects = tuple(dict.fromkeys(subject for arm in arms for subject in arm.scores))
    curves = overlaid([(arm.name, [run.log for run in arm.runs]) for arm in arms])
    return Comparison(f"{about[0]} on {os.path.basename(about[1])}", arms, tuple(keys), subjects, curves)


def _arm(runs: Sequence[Run], settings: Mapping[str, str], keys: Sequence[str], found: Sequence[Evaluation]) -> Arm:
    own = {key: settings.get(key, "-") for key in keys}
    told = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in own.items())
    values: dict[str, list[float]] = {}
    folders = {os.path.realpath(run.folder) for run in runs}
    for one in found:
        if os.path.realpath(one.run) in folders:
            metric = headline(one.metrics)
            values.setdefault(f"{one.where}, {metric}", []).append(one.metrics[metric])
    name = told if 0 < len(keys) <= _NAMING else runs[0].label
    return Arm(name, tuple(runs), own, {subject: Interval.of(scores) for subject, scores in values.items()})


def _settings(run: Run) -> dict[str, str]:
    """The keys of a run's configuration, dotted, as texts; {} of one that cannot be read."""
    try:
        tree = yaml_files.value(run.config)
    except ValueError:
        return {}
    return dict(_flat(tree, "")) if isinstance(tree, dict) else {}


def _flat(tree: Mapping[Any, Any], above: str) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else json.dumps(value, default=str)
