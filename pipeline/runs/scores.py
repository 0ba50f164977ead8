"""What the checkpoints of a run are compared by, and how the comparison stands. Nothing here knows torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from laconvnet.pipeline.runs.layout import VALIDATIONS
from laconvnet.pipeline.runs.records import is_number, read_lines

# Of what a task is scored by more is better: all are shares of 1. What training reports (loss, its terms) is a cost.
_SHARES = frozenset(("acc", "accuracy", "pr", "miou", "oiou", "giou", "ciou", "n_acc", "t_acc"))


class Score(NamedTuple):
    """How good the state after a step is, as its commit marker says it.

    ``split`` is None for a number that training reports; ``score`` is None where validation must not choose.
    """

    score: float | None
    metric: str
    split: str | None


@dataclass(frozen=True)
class Criterion:
    """What checkpoints are compared by: a metric on a split, or (``split`` None) a number that training reports."""

    metric: str
    split: str | None = None

    @property
    def rises(self) -> bool:
        """Whether more of it is better."""
        return self.metric.partition("/")[0].partition("@")[0] in _SHARES

    def best(self, scores: Mapping[int, float]) -> int | None:
        """The step of the best of these scores, the earliest of equal ones; None of none."""
        sign = 1 if self.rises else -1
        return max(scores, key=lambda step: (sign * scores[step], -step), default=None)

    def __str__(self) -> str:
        return f"{self.metric} on {self.split}" if self.split else self.metric


@dataclass(frozen=True)
class Standing:
    """How the validations of a run stand after one at ``step``: the best so far, and how many came after it."""

    step: int
    score: float
    best_step: int
    best: float
    waited: int


def standing(criterion: Criterion, scores: Mapping[int, float], step: int) -> Standing | None:
    """Of the validations at these steps those up to ``step``; None where there is none at ``step`` itself."""
    until = {at: score for at, score in scores.items() if at <= step}
    best = criterion.best(until)
    if best is None or step not in until:
        return None
    return Standing(step, until[step], best, until[best], sum(at > best for at in until))


def validations(run: Path) -> list[dict[str, Any]]:
    """The validations of a run by step, in their order; of a step that was validated again the later one counts.

    Each has `step`, `metric`, `split`, `score` and what `pipeline.training.validation` writes beside them. Raises
    OSError for a file that cannot be read.
    """
    rows = {row["step"]: row for row in read_lines(run / VALIDATIONS) if _is_validation(row)}
    return [rows[step] for step in sorted(rows)]


def scores_of(rows: Iterable[Mapping[str, Any]], criterion: Criterion) -> dict[int, float]:
    """Step -> score of the validations by this criterion."""
    return {
        row["step"]: row["score"]
        for row in rows
        if (row["metric"], row["split"]) == (criterion.metric, criterion.split)
    }


def in_short(row: Mapping[str, Any]) -> str:
    """A validation in a table."""
    early = ", ended early" if row["ends"] else ""
    return f"{row['score']:.3f} at {row['step']}, best {row['best']:.3f} at {row['best_step']}{early}"


def in_words(row: Mapping[str, Any]) -> str:
    """One line on a validation."""
    best = f"best {row['best']:.4f} at step {row['best_step']}"
    if row["best_step"] == row["step"]:
        best = "the best so far"
    waited = f"{row['waited']} validation{'s' if row['waited'] > 1 else ''}"
    ends = f"; no better for {waited}, so the run ends here" if row["ends"] else ""
    criterion = Criterion(row["metric"], row["split"])
    return f"validated {row['score']:.4f} {criterion} at step {row['step']}, {best}{ends}"


def _is_validation(row: Mapping[str, Any]) -> bool:
    texts = all(isinstance(row.get(name), str) for name in ("metric", "split"))
    steps = all(type(row.get(name)) is int for name in ("step", "best_step", "waited"))
    return texts and steps and all(is_number(row.get(name)) for name in ("score", "best")) and "ends" in row
