"""The numbers of a report: scores beside what knows less, and how sure they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconvnet.pipeline.report.gather import Evaluation
from laconvnet.pipeline.report.printed import Printed, printed

# What a score is held against, and how it is headed. Each knows less than the model: no words, no image, neither.
BARS = {
    "shuffled_words": "shuffled words",
    "blank_pictures": "blank images",
    "majority": "majority answer",
    "majority_by_family": "majority by family",
    "words_only": "words-only model",
}
_HEADLINES = {
    "acc@0.5": "of {n} referents found (IoU above 0.5)",
    "accuracy": "of {n} questions answered rightly",
    "giou": "mean IoU over {n} expressions",
    "miou": "mean IoU over {n} referents",
}
_NAMES = {"miou": "mean IoU", "oiou": "overall IoU", "giou": "generalised IoU", "ciou": "cumulative IoU"}


@dataclass(frozen=True)
class Share:
    """A share of 1 and its standard error, None where it is not a count of right answers over a known number."""

    value: float
    error: float | None = None

    @classmethod
    def of(cls, value: float, count: int | None) -> Share:
        return cls(value, None if count is None else standard_error(value, count))


@dataclass(frozen=True)
class Line:
    """One metric of one result beside its bars, and beside what the paper prints for it."""

    name: str
    count: int | None
    score: Share
    baselines: dict[str, Share]
    judged: bool = True
    printed: Printed | None = None

    @property
    def strongest(self) -> str | None:
        """The bar that is hardest to pass; None where there is none, or for a model that knows no more itself."""
        return max(self.baselines, key=lambda name: self.baselines[name].value, default=None) if self.judged else None

    @property
    def margin(self) -> float | None:
        """The score less the strongest bar, as a share of 1."""
        return None if self.strongest is None else self.score.value - self.baselines[self.strongest].value


@dataclass(frozen=True)
class Scores:
    """One result: its headline metric, and every metric in turn."""

    evaluation: Evaluation
    headline: Line
    lines: tuple[Line, ...]

    @property
    def sentence(self) -> str:
        """What the headline says, after the percentage."""
        metric = headline(self.evaluation.metrics)
        return _HEADLINES.get(metric, f"{metric} on {{n}} examples").format(n=f"{self.evaluation.examples:,}")


def standard_error(share: float, count: int) -> float:
    """Of a share of ``count`` independent right-or-wrong answers: sqrt(p (1 - p) / n)."""
    return math.sqrt(max(0.0, share * (1 - share)) / count)


def score(evaluation: Evaluation, others: Sequence[Evaluation], answers: Sequence[Mapping[str, Any]]) -> Scores:
    """The lines of one result. A result among ``others`` on the same data and split whose model was trained on blank
    images is its words-only bar (the strongest of several); ``answers`` tell how many examples a family has.
    """
    first = headline(evaluation.metrics)
    alike = [other for other in others if other.subject == evaluation.subject and first in other.metrics]
    blind = [other for other in alike if other.blank and not evaluation.blank]
    words_only = max(blind, key=lambda other: other.metrics[first], default=None)
    families = Counter(f"accuracy/{answer.get('family')}" for answer in answers)
    names = sorted(evaluation.metrics, key=lambda name: (name != first, "/" in name, name))
    lines = [_line(evaluation, name, words_only, families.get(name)) for name in names]
    return Scores(evaluation, lines[0], tuple(lines))


def headline(metrics: Mapping[str, float]) -> str:
    """The metric of a result that stands for it."""
    return next((name for name in _HEADLINES if name in metrics), min(metrics))


def _line(evaluation: Evaluation, metric: str, words_only: Evaluation | None, of_family: int | None) -> Line:
    whole = evaluation.examples if metric.startswith("acc") else None
    count = of_family if "/" in metric else whole
    baselines = {name: scores[metric] for name, scores in evaluation.controls.items() if metric in scores}
    if metric == "accuracy":
        keys, majority = {"majority": "accuracy", "majority_by_family": "accuracy_by_family"}, evaluation.majority
        baselines |= {name: majority[key] for name, key in keys.items() if key in majority}
    if words_only is not None and metric in words_only.metrics:
        baselines["words_only"] = words_only.metrics[metric]
    return Line(
        _NAMES.get(metric, metric.removeprefix("accuracy/").replace("_", " ")),
        count,
        Share.of(evaluation.metrics[metric], count),
        {name: Share.of(baselines[name], count) for name in BARS if name in baselines},
        judged=not evaluation.blank,
        printed=printed(evaluation, metric),
    )
