"""The distributions of a set as one self-contained HTML page with SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from laconvnet.files import publish_text
from laconvnet.page import templates
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.areas import BORDERS, SIZES
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.pages.distributions import (
    MOST_EXPRESSIONS,
    MOST_WORDS,
    SHARES,
    SIDES,
    Distribution,
    distributions,
)
from laconvnet.svg import LINE, MUTED, SETTINGS, inline

_COLOURS = (
    "#c8762c",
    "#3f8fc0",
    "#5b9b58",
    "#a777b8",
    "#b3576a",
    "#7d8590",
    "#c2a12f",
    "#4aa8a0",
    "#8f6b4a",
    "#5d6fc4",
)
_ACROSS = 4  # heat maps beside each other


@dataclass(frozen=True)
class Plot:
    """An SVG element, what it shows in words, and its heading."""

    heading: str
    note: str
    svg: str


def plots(folder: Path, out: Path) -> None:
    """Write the page on a set to ``out``, whole or not at all; raises InputError as `Manifest.open`."""
    if out.is_dir():
        raise InputError(f"--plots {out}: is a folder; expected the name of an HTML file")
    manifest = Manifest.open(folder)
    found = distributions(manifest)
    spoken = [one for one in found if one.regions]
    shown = [*_lines(spoken), *_maps(spoken), *_sides(found)]
    page = (
        templates(Path(__file__).parent)
        .get_template("distributions.html.j2")
        .render(
            title=folder.resolve().name,
            folder=folder.resolve(),
            source=manifest.meta["source"],
            licence=manifest.meta["licence"],
            groups=found,
            sizes=SIZES,
            borders=BORDERS,
            plots=shown,
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    publish_text(out, page)


def _lines(groups: Sequence[Distribution]) -> list[Plot]:
    if not groups:
        return []
    return [
        _curves(
            "expressions",
            "Expressions a region",
            f"Share of the regions; {MOST_EXPRESSIONS} stands for {MOST_EXPRESSIONS} and more.",
            [(one.name, one.expressions) for one in groups],
            np.arange(1.0, MOST_EXPRESSIONS + 1),
        ),
        _curves(
            "words",
            "Words an expression",
            f"Share of the expressions; {MOST_WORDS} stands for {MOST_WORDS} and more. Words are parted by blanks.",
            [(one.name, one.words) for one in groups],
            np.arange(1.0, MOST_WORDS + 1),
        ),
        _curves(
            "shares",
            "Size of a region",
            "Share of the regions, by the share of the image that the box around all their boxes covers.",
            [(one.name, one.shares) for one in groups],
            np.sqrt(SHARES[1:] * SHARES[:-1]),
            logarithmic=lambda at: f"{100 * at:g} %",
        ),
    ]


def _sides(groups: Sequence[Distribution]) -> list[Plot]:
    return [
        _curves(
            "sides",
            "Size of an image",
            "Share of the samples, by the longer side of the image in pixels.",
            [(one.name, one.sides) for one in groups],
            np.sqrt(SIDES[1:] * SIDES[:-1]),
            logarithmic=lambda at: f"{at:g}",
        )
    ]


def _curves(
    name: str,
    heading: str,
    note: str,
    lines: Sequence[tuple[str, NDArray[np.int64]]],
    at: NDArray[np.float64],
    logarithmic: Callable[[float], str] | None = None,
) -> Plot:
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 2.6), facecolor="none")
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_axes((0.07, 0.1, 0.63, 0.86))
        for number, (label, counts) in enumerate(lines):
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(
                at, 100 * counts / max(counts.sum(), 1), color=colour, marker="o", markersize=2, label=_plain(label)
            )
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: logarithmic(value))
        axes.yaxis.set_major_formatter("{x:g} %")
        _dress(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, borderaxespad=0)
        return Plot(heading, note, inline(canvas, name))


def _maps(groups: Sequence[Distribution]) -> list[Plot]:
    groups = [one for one in groups if one.centres.any()]
    if not groups:
        return []
    rows = math.ceil(len(groups) / _ACROSS)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 1.85 * rows), facecolor="none")
        canvas = FigureCanvasSVG(figure)
        places: Any = figure.subplots(rows, _ACROSS, squeeze=False)
        for axes in places.flat:
            axes.set_axis_off()
        for axes, one in zip(places.flat, groups, strict=False):
            axes.imshow(one.centres, cmap="viridis", extent=(0, 1, 1, 0), interpolation="nearest")
            axes.set_title(_plain(one.name), fontsize=7)
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=1 - 0.2 / (1.85 * rows), wspace=0.08, hspace=0.2)
        note = "Where the centres of the boxes lie in the image, whatever its shape; light where there are many."
        return [Plot("Centres of the boxes", note, inline(canvas, "centres"))]


def _plain(text: str) -> str:
    """A label as it is written: to matplotlib dollars are formulas, and an underscore hides a label from the legend."""
    return text.replace("$", r"\$").lstrip("_")


def _dress(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(which="both", colors=MUTED, labelcolor=MUTED, length=2.5, width=0.6)
    axes.grid(visible=True, color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylim(bottom=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LINE)
