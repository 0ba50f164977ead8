"""One self-contained HTML page on runs and stage graphs: what they reached, how, and where they fail."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from laconvnet.files import publish_text
from laconvnet.page import choices, script, templates
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.report.compare import Comparison, comparisons
from laconvnet.pipeline.report.curves import curves
from laconvnet.pipeline.report.gantt import gantt
from laconvnet.pipeline.report.gather import Gathered, Run, gather
from laconvnet.pipeline.report.ledgers import sets_of
from laconvnet.pipeline.report.scores import BARS, Scores, score
from laconvnet.pipeline.report.sheet import Sheet, sheet
from laconvnet.pipeline.report.summary import summary
from laconvnet.pipeline.runs.layout import REPORT
from laconvnet.pipeline.runs.records import is_number
from laconvnet.pipeline.runs.scores import in_words
from laconvnet.shards.format.areas import SIZES

_MINUS = "\N{MINUS SIGN}"
_OPEN = 3  # results whose images are shown at once; those of the others wait to be asked for
# What the reader may choose the images by, and in which order they may stand; cards.js knows both by these names.
_FILTERS = {"outcome": "answer", "phrase": "phrase", "size": "object", "others": "others of its category"}
_FILTERS |= {"failure": "mistake"}
_ORDERS = {"": "as drawn", "iou": "smallest IoU first", "-iou": "largest IoU first"}
_ORDERS |= {"words": "shortest phrase first", "-words": "longest phrase first"}


@dataclass(frozen=True)
class _Result:
    scores: Scores
    sheet: Sheet


def report(places: Sequence[Path], out: Path) -> str:
    """Write the page on the runs, stage graphs and evaluations in these folders to ``out``, whole or not at all.

    The page needs nothing beside it and loads nothing; its script only filters and orders the images. Its table of
    results is returned as plain text, which also lies beside the page with the ending .txt. Raises ConfigError for a
    folder that holds nothing to report.
    """
    if out.is_dir():
        raise ConfigError(f"--out: {out}: is a folder; expected the name of an HTML file, such as {out / REPORT}")
    found = gather(places)
    scored, compared = _results(found), comparisons(found)
    table = summary([result.scores for result in scored], out.resolve(), compared)
    out.parent.mkdir(parents=True, exist_ok=True)
    publish_text(out.with_suffix(".txt"), table)
    publish_text(out, _render(found, scored, compared))
    return table


def results(places: Sequence[Path]) -> list[dict[str, Any]]:
    """The results in these folders for programs: of each the model, where it was scored, and every metric."""
    return [
        {
            "model": one.label,
            "run": one.run,
            "task": one.task,
            "data": one.data,
            "split": one.split,
            "step": one.step,
            "examples": one.examples,
            "annotated": one.annotated,
            "metrics": one.metrics,
            "controls": one.controls,
        }
        for one in gather(places).evaluations
    ]


def _results(found: Gathered) -> list[_Result]:
    results = []
    for evaluation in sorted(found.evaluations, key=lambda evaluation: evaluation.blank):
        answers = evaluation.answers()
        results.append(_Result(score(evaluation, found.evaluations, answers), sheet(evaluation, answers)))
    return results


def _render(found: Gathered, results: list[_Result], compared: list[Comparison]) -> str:
    shown = {bar for result in results for bar in result.scores.headline.baselines}
    runs = [{"run": run, "curves": curves(run.log, run.validations), **_facts(run)} for run in found.runs]
    environment = templates(Path(__file__).parent)
    environment.filters |= {"percent": _percent, "points": _points, "duration": _duration, "significant": _significant}
    return environment.get_template("page.html.j2").render(
        title=_title(found),
        written=f"{datetime.now().astimezone():%-d %B %Y, %H:%M %Z}",
        found=found,
        charts=[gantt(graph) for graph in found.graphs],
        results=results,
        filter_names=_FILTERS,
        comparisons=compared,
        sets=sets_of(found),
        runs=runs,
        environments=_environments(found.runs),
        baseline_names={bar: name for bar, name in BARS.items() if bar in shown},
        paper=any(line.printed for result in results for line in result.scores.lines),
        filters=_filters(results),
        explained=any(card.words for result in results for card in (*result.sheet.right, *result.sheet.wrong)),
        orders=_ORDERS,
        open=_OPEN,
        script=script(),
    )


def _filters(results: Sequence[_Result]) -> dict[str, list[str]]:
    """What each filter may be set to, by its heading: the values of the trait that occur, where there are several."""
    cards = [card for result in results for card in (*result.sheet.right, *result.sheet.wrong)]
    found = {name: {card.traits[name] for card in cards if name in card.traits} for name in _FILTERS}
    return choices(found, SIZES)


def _title(found: Gathered) -> str:
    names = [graph.name for graph in found.graphs]
    inside = {stage.folder for graph in found.graphs for stage in graph.stages}
    names += [run.label for run in found.runs if not inside.intersection((run.folder, run.folder.parent))]
    names = names or list(dict.fromkeys(evaluation.label for evaluation in found.evaluations))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _facts(run: Run) -> dict[str, Any]:
    """How far a run came, from its log."""
    last = run.log[-1] if run.log else {}
    speeds = [row["samples_per_s"] for row in run.log if is_number(row.get("samples_per_s"))]
    losses = [(row["step"], row["loss"]) for row in run.log if is_number(row.get("loss"))]
    return {
        "step": last.get("step"),
        "steps": last.get("steps"),
        "epoch": last.get("epoch"),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "validated": in_words(run.validations[-1]) if run.validations else None,
        "speed": statistics.median(speeds) if speeds else None,
    }


def _environments(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Where the runs began: each different place once, with the runs that began there."""
    places: list[dict[str, Any]] = []
    for run in (run for run in runs if run.environment):
        known = next((place for place in places if place["facts"] == run.environment), None)
        if known is None:
            known = {"facts": run.environment, "runs": []}
            places.append(known)
        known["runs"].append(run.label)
    return places


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    text = f"{100 * difference:+.1f}"
    return text.replace("-", _MINUS) if float(text) else "0.0"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def _significant(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
