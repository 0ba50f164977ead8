"""The course of a stage graph as a picture: a row a stage, its waiting and its work along one line of time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from laconvnet.pipeline.report.gather import Graph

_LEFT, _RIGHT, _HEAD = 230.0, 930.0, 24.0
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


@dataclass(frozen=True)
class Bar:
    """A stretch of a row, in units of the picture."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Row:
    """A stage."""

    label: str
    title: str
    middle: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Gantt:
    """What the page draws; `ticks` are places and texts along the line of time."""

    width: float
    height: float
    left: float
    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]
    began: str
    kinds: frozenset[str]


def gantt(graph: Graph) -> Gantt | None:
    """The picture of a graph, None where none of its stages was started."""
    spans = [span for stage in graph.stages for span in stage.spans]
    if not spans:
        return None
    first = min(span.begin for span in spans)
    length = max(max(span.end for span in spans) - first, 1.0)
    scale = (_RIGHT - _LEFT) / length
    height = 20.0 if len(graph.stages) <= _NARROW else 14.0
    rows = []
    for number, stage in enumerate(graph.stages):
        top = _HEAD + number * height
        bars = []
        for span in stage.spans:
            thick = height * (0.16 if span.kind == "queued" else 0.6)
            x, width = _LEFT + (span.begin - first) * scale, max((span.end - span.begin) * scale, 1.5)
            bars.append(Bar(span.kind, x, top + (height - thick) / 2, width, thick))
        mark = {"done": "", "failed": "✗ "}.get(stage.state, "· ")
        told = [f"{span.kind} {_text(span.end - span.begin)}" for span in stage.spans]
        title = f"{stage.name}: {', '.join(told) or 'not started'}"
        rows.append(Row(_cut(mark + stage.name), title, top + height / 2, tuple(bars)))
    return Gantt(
        width=_RIGHT + 30,
        height=_HEAD + len(rows) * height + 6,
        left=_LEFT,
        rows=tuple(rows),
        ticks=tuple((_LEFT + at * scale, _text(at)) for at in _places(length)),
        began=f"{datetime.fromtimestamp(first).astimezone():%-d %B %Y, %H:%M:%S %Z}",
        kinds=frozenset(span.kind for span in spans),
    )


def _cut(text: str) -> str:
    """Names that are long differ at their ends."""
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 16]}…{text[-15:]}"


def _places(length: float) -> list[float]:
    """Round times along the line, in seconds."""
    step = next((step for step in _STEPS if length / step <= _TICKS), length)
    return [step * number for number in range(int(length // step) + 1)]


def _text(seconds: float) -> str:
    """A time in its two largest units: 0, 45 s, 2 min 30 s, 3 h, 1 d 12 h."""
    rest, parts = round(seconds), []
    for unit, name in _UNITS:
        if rest >= unit:
            parts.append(f"{rest // unit} {name}")
            rest %= unit
    return " ".join(parts[:2]) or "0"
