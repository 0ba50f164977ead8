"""Images by matplotlib as SVG that follows the page (`laconvnet.page`): its colours, light or dark, and its font.

This module knows matplotlib only.
"""

from __future__ import annotations

import io
import re
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG

# Stand-ins that matplotlib accepts; in the file they become variables of the page.
INK, MUTED, LINE, ACCENT, WRONG = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
_NAMES = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent", WRONG: "wrong"}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "laconvnet",
    "font.size": 7.5,
    "axes.linewidth": 0.6,
    "text.color": INK,
}


def text_of(canvas: FigureCanvasSVG) -> str:
    """The SVG element of a figure, its colours those of the page."""
    drawn = io.BytesIO()
    canvas.print_svg(drawn, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = drawn.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    for stand_in, name in _NAMES.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg


def inline(canvas: FigureCanvasSVG, name: str) -> str:
    """As `text_of`, for a page that has others beside it: without a style of its own, and with ids of its own.

    ``name`` goes before each id: letters alone.
    """
    svg = re.sub(r"<style.*?</style>", "", text_of(canvas), flags=re.DOTALL)  # within a page it would be the page's
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
