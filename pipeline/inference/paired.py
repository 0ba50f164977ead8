"""Two models on the same examples: how much better one is, and how sure that is.

Answers to the texts of one image are alike, so images are resampled, not examples (the cluster bootstrap, Field & Welsh
2007), the same ones for both sides; where a side has several runs (seeds), its runs are resampled, too. The interval is
that of percentiles (Efron & Tibshirani 1993).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from laconvnet.files import find_object
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.report.compare import Interval
from laconvnet.pipeline.report.scores import headline
from laconvnet.pipeline.runs.layout import ANSWERS

RESAMPLES, CONFIDENCE = 10_000, 0.95
_AT_ONCE = 500  # resamples in memory
_VERDICTS = ("accuracy", "correct", "iou")  # of an answer: the first that it has is its worth

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Result:
    """One result of `eval`: ``worth`` (examples,) from 0 to 1 of each answer.

    ``examples`` and ``images`` (examples,) tell which these are and about which image, ``families`` of which kind.
    """

    file: Path
    about: tuple[object, ...]
    metric: str
    examples: Integers
    images: Integers
    families: tuple[str, ...]
    worth: Floats

    @classmethod
    def read(cls, file: Path) -> Result:
        """Of its JSON file and the answers beside it. Raises ConfigError where they are none."""
        report, lines = find_object(file), file.with_suffix(ANSWERS)
        metrics = {key: value for key, value in (report or {}).items() if isinstance(value, float)}
        if report is None or "split" not in report or "task" not in report or not metrics:
            raise ConfigError(f"{file}: not a result of `laconvnet eval`; expected its JSON file")
        if not lines.is_file():
            raise ConfigError(f"{lines}: no such file; `laconvnet eval` writes it beside {file.name}")
        answers = list(_answers(lines))
        if not answers:
            raise ConfigError(f"{lines}: holds no answer; expected one for each example")
        return cls(
            file,
            (report["task"], report.get("source"), report["split"]),
            headline(metrics),
            np.array([answer.example for answer in answers]),
            np.array([answer.image for answer in answers]),
            tuple(answer.family for answer in answers),
            np.array([answer.worth for answer in answers]),
        )


@dataclass(frozen=True)
class Side:
    """The results of one model's runs, all of the same examples."""

    runs: tuple[Result, ...]

    @classmethod
    def of(cls, pattern: str) -> Side:
        """The results that a path or a pattern of paths names. Raises ConfigError where it names none."""
        files = sorted(glob(pattern))
        if not files:
            raise ConfigError(f"{pattern}: no such file; expected the JSON result of `laconvnet eval`, or a pattern")
        first, *others = (Result.read(Path(file)) for file in files)
        for other in others:
            _check_alike(first, other)
        return cls((first, *others))

    def sums(self, which: NDArray[np.bool_], image: Integers) -> Floats:
        """What the answers to ``which`` (examples,) are worth by ``image`` of each, (runs, images)."""
        return np.array([np.bincount(image, run.worth[which]) for run in self.runs])


class _Answer(NamedTuple):
    """What counts of an answer: which example it is, about which image, of which family, and its worth."""

    example: np.int64
    image: np.int64
    family: str
    worth: float


def _answers(file: Path) -> Iterator[_Answer]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                answer = json.loads(line)
                numbers = np.int64(answer["example"]), np.int64(answer["sample"])
                found = _Answer(*numbers, answer.get("family") or "", _worth(answer))
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise ConfigError(f"{file}: line {number}: not an answer of `laconvnet eval` ({error})") from error
            yield found


def _worth(answer: Mapping[str, Any]) -> float:
    """Raises ValueError where it is no share, such as NaN: it would pass for a difference that is sure."""
    name = next((name for name in _VERDICTS if name in answer), None)
    if name is None:
        raise ValueError("no verdict; the answers of this split are hidden")
    if not 0 <= (worth := float(answer[name])) <= 1:
        raise ValueError(f"{name} is {worth}, expected 0 to 1")
    return worth


def _check_alike(one: Result, other: Result) -> None:
    """Raises ConfigError where two are not of the same examples."""
    if one.about != other.about:
        told = " and ".join(f"{each.file} of {' '.join(map(str, each.about))}" for each in (one, other))
        raise ConfigError(f"{told}: expected results on the same split of the same set")
    if not np.array_equal(one.examples, other.examples) or not np.array_equal(one.images, other.images):
        raise ConfigError(f"{one.file} and {other.file}: not of the same examples; score both on the same built set")


@dataclass(frozen=True)
class Difference:
    """One metric of two sides; shares of 1. ``low`` to ``high`` is the 95 % interval of ``difference`` = a - b.

    ``a`` and ``b`` are each side's mean over its runs, with the interval over seeds (Student's t). ``p`` is twice the
    share of resamples whose difference has the other sign.
    """

    name: str
    examples: int
    images: int
    a: Interval
    b: Interval
    difference: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """Which side is better, where the interval tells."""
        if self.low <= 0 <= self.high:
            return "undecided"
        return "A is better" if self.difference > 0 else "B is better"


def compared(a: Side, b: Side, seed: int = 0) -> list[Difference]:
    """The difference over all examples and, where these have families, within each.

    Raises ConfigError where the sides were not scored on the same examples.
    """
    first = a.runs[0]
    _check_alike(first, b.runs[0])
    found = [_difference(first.metric, a, b, np.ones(len(first.worth), bool), seed)]
    families = np.array(first.families)
    for family in sorted(set(first.families) - {""}):
        found.append(_difference(f"{first.metric}/{family}", a, b, families == family, seed))
    return found


def _difference(name: str, a: Side, b: Side, which: NDArray[np.bool_], seed: int) -> Difference:
    _, image = np.unique(a.runs[0].images[which], return_inverse=True)
    count = np.bincount(image).astype(np.float64)
    sums = [side.sums(which, image) for side in (a, b)]
    ours, theirs = (Interval.of((total.sum(1) / count.sum()).tolist()) for total in sums)
    drawn = _resampled(sums[0], sums[1], count, np.random.default_rng(seed))
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))  # Davison & Hinkley 1997, 4.2: never 0
    if len(count) == 1:  # a sample of one image is always that image, and says nothing of others
        low, high, p = -1.0, 1.0, 1.0
    return Difference(
        name, int(count.sum()), len(count), ours, theirs, ours.mean - theirs.mean, float(low), float(high), p
    )


def _resampled(a: Floats, b: Floats, count: Floats, random: np.random.Generator) -> Floats:
    """Differences of resampled scores (RESAMPLES,): sums a (runs, images) and b, of so many examples an image."""
    drawn = []
    images = len(count)
    for _ in range(RESAMPLES // _AT_ONCE):
        chosen = random.integers(images, size=(_AT_ONCE, images))
        times = np.stack([np.bincount(row, minlength=images) for row in chosen]).astype(np.float64)
        scores = [(times @ side.T) / (times @ count)[:, None] for side in (a, b)]
        runs = [random.integers(each.shape[1], size=each.shape) for each in scores]
        ours, theirs = (np.take_along_axis(each, at, 1).mean(1) for each, at in zip(scores, runs, strict=True))
        drawn.append(ours - theirs)
    return np.concatenate(drawn)


def rows(found: Sequence[Difference]) -> list[dict[str, Any]]:
    """A row a metric, for a table or as JSON."""
    return [
        {
            "metric": one.name,
            "a": one.a.mean,
            "a_half": one.a.half,
            "b": one.b.mean,
            "b_half": one.b.half,
            "difference": one.difference,
            "low": one.low,
            "high": one.high,
            "p": one.p,
            "verdict": one.verdict,
            "examples": one.examples,
            "images": one.images,
            "runs": f"{one.a.count} and {one.b.count}",
        }
        for one in found
    ]
