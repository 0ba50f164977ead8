"""The course of a stage graph as an image: a row a stage, its waiting and its work along one line of time."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from laconvnet.pipeline.report.gather import Graph
from laconvnet.svg import ACCENT, INK, LINE, MUTED, SETTINGS, WRONG, text_of

_WIDTH, _LEFT, _RIGHT, _HEAD = 9.6, 2.3, 0.3, 0.24  # inches; of 100 units of the page each
_TICKS = 7  # at most
_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(60 * n for n in (1, 2, 5, 10, 15, 30)),
    *(3600 * n for n in (1, 2, 3, 6, 12)),
    *(86400 * n for n in (1, 2, 7, 14, 28, 91, 364)),
)
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_LABEL = 34  # characters that fit beside the rows
_NARROW = 40  # more stages are drawn in lower rows
_SHORTEST = 0.002  # of the line of time: what is shorter would not be seen
_LOOKS: dict[str, dict[str, Any]] = {
    "queued": {"facecolor": MUTED},
    "running": {"facecolor": "none", "edgecolor": ACCENT, "linewidth": 1.0},
    "interrupted": {"facecolor": ACCENT, "alpha": 0.35},
    "done": {"facecolor": ACCENT},
    "failed": {"facecolor": WRONG},
}


@dataclass(frozen=True)
class Gantt:
    """What the page shows: an SVG element, when its line of time begins, and the kinds of bars that are in it."""

    svg: str
    began: str
    kinds: frozenset[str]


def gantt(graph: Graph) -> Gantt | None:
    """The image of a graph, None where none of its stages was started."""
    spans = [span for stage in graph.stages for span in stage.spans]
    if not spans:
        return None
    first = min(span.begin for span in spans)
    length = max(max(span.end for span in spans) - first, 1.0)
    count = len(graph.stages)
    tall = _HEAD + count * (0.2 if count <= _NARROW else 0.14)
    titles = {}
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(_WIDTH, tall), facecolor="none")
        canvas = FigureCanvasSVG(figure)
        room = (_LEFT / _WIDTH, 0.0, 1 - (_LEFT + _RIGHT) / _WIDTH, 1 - _HEAD / tall)
        axes = figure.add_axes(room, xlim=(0, length), ylim=(count - 0.5, -0.5), facecolor="none", frame_on=False)
        marks = {"done": "", "failed": "✗ "}
        names = [_cut(marks.get(stage.state, "· ") + stage.name) for stage in graph.stages]
        axes.set_yticks(range(count), names, parse_math=False)
        for number, (stage, label) in enumerate(zip(graph.stages, axes.get_yticklabels(), strict=True)):
            parts = [f"{span.kind} {_text(span.end - span.begin)}" for span in stage.spans]
            titles[f"stage-{number}"] = f"{stage.name}: {', '.join(parts) or 'not started'}"
            label.set_gid(f"stage-{number}")
            for span in stage.spans:
                thick = 0.16 if span.kind == "queued" else 0.6
                width = max(span.end - span.begin, _SHORTEST * length)
                (bar,) = axes.barh(number, width, thick, span.begin - first, clip_on=False, **_LOOKS[span.kind])
                bar.set_gid(f"stage-{number}-{span.kind}")
        axes.xaxis.set_major_locator(
            MultipleLocator(next((step for step in _STEPS if length / step <= _TICKS), length))
        )
        axes.xaxis.set_major_formatter(lambda at, _: _text(at))
        axes.tick_params(length=0, labelcolor=INK)
        axes.tick_params("x", labelcolor=MUTED, top=True, labeltop=True, labelbottom=False)
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        svg = text_of(canvas)
    return Gantt(
        svg=_titled(svg, titles),
        began=f"{datetime.fromtimestamp(first).astimezone():%-d %B %Y, %H:%M:%S %Z}",
        kinds=frozenset(span.kind for span in spans),
    )


def _titled(svg: str, titles: dict[str, str]) -> str:
    """An image that tells what a stage did where the pointer is over its name or bars; ids are the page's to give."""

    def titled(found: re.Match[str]) -> str:
        number, kind = found[1], found[2] or ""
        return f'<g class="{kind.lstrip("-")}"><title>{html.escape(titles[number])}</title>'

    svg = re.sub(r'<g id="(stage-\d+)(-\w+)?">', titled, svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # within a page it would be the page's
    return re.sub(r'<g id="[\w.]+"(/?)>', r"<g\1>", svg)


def _cut(text: str) -> str:
    """Names that are long differ at their ends."""
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 16]}…{text[-15:]}"


def _text(seconds: float) -> str:
    """A time in its two largest units: 0, 45 s, 2 min 30 s, 3 h, 1 d 12 h."""
    rest, parts = round(seconds), []
    for unit, name in _UNITS:
        if rest >= unit:
            parts.append(f"{rest // unit} {name}")
            rest %= unit
    return " ".join(parts[:2]) or "0"
