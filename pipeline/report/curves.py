"""The course of a run as an image: loss and its terms, learning rate, speed."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from laconvnet.pipeline.runs.records import is_number
from laconvnet.svg import INK, LINE, MUTED, SETTINGS, text_of

_NOT_TERMS = {
    *("version", "step", "steps", "epoch", "loss", "grad_norm", "lr"),
    *("samples_per_s", "samples_per_s_per_device", "data_wait", "mfu", "memory_mb", "device_memory_mb", "eta_s"),
    *("skipped", "loss_scale", "time"),
}
_POINTS = 300  # a curve of more is drawn as the means of so many stretches: nobody sees the difference, the file does
_WIDE = 30  # terms of the loss that differ more are drawn on a logarithmic scale
_TERM_COLOURS = ("#c8762c", "#3f8fc0", "#5b9b58", "#a777b8", "#b3576a", "#7d8590")
# An image has no part in the page's variables: these are their values, light and dark.
_THEME = {"ink": ("#23262b", "#e7e4dd"), "muted": ("#62676f", "#a4a9b0"), "line": ("#e4e1d9", "#2d3137")}


def curves(log: Sequence[Mapping[str, Any]], validations: Sequence[Mapping[str, Any]] = ()) -> str | None:
    """The data URI of an SVG drawn from the rows of a run's log and of its validations.

    None where fewer than two rows have a loss.
    """
    rows = [row for row in log if is_number(row.get("loss"))]
    if len(rows) < 2:
        return None
    terms = [name for name in rows[-1] if name not in _NOT_TERMS and is_number(rows[-1][name])]
    if len(terms) == 1:
        terms = []  # it is the loss itself
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(5, 4.7 if validations else 3.9), facecolor="none")
        canvas = FigureCanvasSVG(figure)
        heights = (5, 2, 1.2, 1.2) if validations else (5, 1.2, 1.2)
        loss, *scores, rate, speed = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        figure.subplots_adjust(left=0.125, right=0.965, bottom=0.1, top=0.94, hspace=0.28)
        for axes in scores:
            _scores(axes, validations)
        for name, colour in zip(terms, _TERM_COLOURS * len(terms), strict=False):
            loss.plot(*_series(rows, name), color=colour, linewidth=0.9, label=name.replace("_", " "))
        loss.plot(*_series(rows, "loss"), color=INK, linewidth=1.5, label="loss")
        drawn = [row[name] for row in rows for name in ("loss", *terms) if is_number(row.get(name))]
        if 0 < _WIDE * min(drawn) < max(drawn):
            loss.set_yscale("log")
            loss.yaxis.set_major_formatter("{x:g}")
        loss.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, borderaxespad=0.2, handlelength=1.4
        )
        rate.plot(*_series(rows, "lr"), color=INK, linewidth=0.9)
        speed.plot(*_series(rows, "samples_per_s"), color=INK, linewidth=0.9)
        speed.set_xlabel("step", color=MUTED)
        for axes, title in ((loss, "loss"), (rate, "learning rate"), (speed, "samples per s")):
            _dress(axes, title)
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
        rate.yaxis.get_offset_text().set(color=MUTED, fontsize=6)
        for axes in (rate, speed):
            axes.set_ylim(bottom=0)
        speed.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        for axis in (speed.xaxis, speed.yaxis):
            axis.set_major_formatter(EngFormatter(sep="\N{THIN SPACE}"))
        return _uri(canvas)


def overlaid(arms: Sequence[tuple[str, Sequence[Sequence[Mapping[str, Any]]]]]) -> str | None:
    """The data URI of an SVG with the losses of all runs, a colour for each arm: its name and the rows of its runs'
    logs. None where fewer than two runs have two rows with a loss."""
    drawn = [
        (number, name, rows)
        for number, (name, logs) in enumerate(arms)
        for log in logs
        if len(rows := [row for row in log if is_number(row.get("loss"))]) > 1
    ]
    if len(drawn) < 2:
        return None
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(5, 2.6), facecolor="none")
        canvas = FigureCanvasSVG(figure)
        axes = figure.subplots()
        figure.subplots_adjust(left=0.125, right=0.965, bottom=0.14, top=0.9)
        named: set[str] = set()
        for number, name, rows in drawn:
            label = "_nolegend_" if name in named else name.replace("$", r"\$")  # it is no formula
            axes.plot(
                *_series(rows, "loss"), color=_TERM_COLOURS[number % len(_TERM_COLOURS)], linewidth=1, label=label
            )
            named.add(name)
        axes.legend(loc="upper right", frameon=False, handlelength=1.4)
        axes.set_xlabel("step", color=MUTED)
        _dress(axes, "loss")
        return _uri(canvas)


def _scores(axes: Axes, validations: Sequence[Mapping[str, Any]]) -> None:
    """The score of each validation, and the best of them."""
    newest = validations[-1]
    axes.plot(*_series(validations, "score"), color=INK, linewidth=0.9, marker="o", markersize=2.5)
    axes.plot([newest["best_step"]], [newest["best"]], color=_TERM_COLOURS[0], marker="o", markersize=4)
    _dress(axes, f"{newest['split']} {newest['metric']}")


def _dress(axes: Axes, title: str) -> None:
    axes.set_facecolor("none")
    axes.set_ylabel(title.replace(" ", "\n", 1), color=MUTED)
    axes.yaxis.set_label_coords(-0.085, 0.5)  # one line for all three, whatever the width of their numbers
    axes.tick_params(which="both", colors=MUTED, labelcolor=MUTED, length=2.5, width=0.6)
    axes.tick_params(which="minor", labelleft=False, length=1.5)
    axes.grid(visible=True, color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LINE)


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of one column."""
    pairs = np.array([(row["step"], row[name]) for row in rows if is_number(row.get(name))], np.float64).reshape(-1, 2)
    if len(pairs) > _POINTS:
        pairs = np.array([stretch.mean(0) for stretch in np.array_split(pairs, _POINTS)])
    return pairs[:, 0], pairs[:, 1]


def _uri(canvas: FigureCanvasSVG) -> str:
    light, dark = ("".join(f"--{name}:{both[which]};" for name, both in _THEME.items()) for which in (0, 1))
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    svg = re.sub(r"(<svg[^>]*>)", lambda head: head[1] + style, text_of(canvas), count=1)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
