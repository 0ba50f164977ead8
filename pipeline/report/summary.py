"""The table of a report as plain text: what each model reached, beside what knows less."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table

from laconvnet.pipeline.report.compare import Comparison, Interval
from laconvnet.pipeline.report.scores import BARS, Scores

# As wide as it takes: a number that is cut to fit is worse than a long line.
_WIDTH = 1000
_LEGEND = """\
%: referents found (IoU above 0.5), or questions answered rightly, with the standard error; for masks the mean
IoU. Beside it the same model with the words of another example, and with blank images; the training split's
commonest answer, of all questions and of a question's family; a model trained on blank images. margin: over the
highest of them. of annotated: what the score is of; the rest was lost when the set was built. paper: what it prints
for this network on this split.
"""


def summary(scores: Sequence[Scores], page: Path, compared: Sequence[Comparison] = ()) -> str:
    """One row a result, in per cent, one an arm of each comparison, and where the page lies."""
    baselines = [baseline for baseline in BARS if any(baseline in result.headline.baselines for result in scores)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in ("model", "on"):
        table.add_column(name, no_wrap=True)
    headings = [BARS[baseline].removesuffix(" answer").removesuffix(" model") for baseline in baselines]
    papers = ["paper"] if any(result.headline.printed for result in scores) else []
    for name in ("examples", "of annotated", "%", *papers, *headings, "margin"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in scores:
        found, line = result.evaluation, result.headline
        error = "" if line.score.error is None else f" ±{100 * line.score.error:.1f}"
        shares = (line.baselines.get(baseline) for baseline in baselines)
        beside = ("-" if share is None else f"{100 * share.value:.1f}" for share in shares)
        margin = "-" if line.margin is None else f"{100 * line.margin:+.1f}"
        score = f"{100 * line.score.value:.1f}{error}"
        complete = "-" if found.complete is None else f"{100 * found.complete:.1f} %"
        told = [f"{100 * line.printed.value:.1f}" if line.printed else "-"] if papers else []
        table.add_row(found.label, found.where, f"{found.examples:,}", complete, score, *told, *beside, margin)
    lines = _lines(table) if scores else ["no evaluation yet"]
    arms = [line for one in compared if one.subjects for line in _arms(one)]
    return "\n".join([*lines, "", *arms, *([_LEGEND] if scores else []), f"report: {page}", ""])


def _arms(compared: Comparison) -> list[str]:
    """The mean of every arm over its runs, with half of the 95 % interval."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column(f"compared: {compared.title}", no_wrap=True)
    for name in ("runs", *compared.subjects):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in compared.arms:
        found = (arm.scores.get(subject) for subject in compared.subjects)
        table.add_row(arm.name, str(len(arm.runs)), *("-" if one is None else _told(one) for one in found))
    return [*_lines(table), ""]


def _told(score: Interval) -> str:
    return f"{100 * score.mean:.1f}" + ("" if score.half is None else f" ±{100 * score.half:.1f}")


def _lines(table: Table) -> list[str]:
    text = StringIO()
    Console(file=text, width=_WIDTH, markup=False, highlight=False, emoji=False).print(table)
    return [row.rstrip() for row in text.getvalue().splitlines()]
