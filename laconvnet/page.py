"""Pages of HTML that need nothing beside them: how their templates are filled, their style, and what they may load.

The style that they share is `page.css`, beside this module; a template includes it by that name. `cards.js` filters and
orders the cards of a page by what its one form says. This module knows Jinja only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def templates(folder: Path) -> Environment:
    """The templates of a folder, and the shared style. Whatever is filled in is escaped; what is missing raises."""
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["policy"] = policy
    return environment


def choices(found: Mapping[str, Collection[str]], order: Sequence[str]) -> dict[str, list[str]]:
    """What each filter of a page may be set to: the values that occur, where there are several.

    Those of ``order`` come in its order, others by their spelling.
    """
    place = {value: number for number, value in enumerate(order)}
    return {
        name: sorted(values, key=lambda value: (place.get(value, 0), value))
        for name, values in found.items()
        if len(values) > 1
    }


def script() -> str:
    """The script of a page with cards, for `policy` and the page."""
    return (Path(__file__).parent / "cards.js").read_text(encoding="utf-8")


def policy(runs: str = "") -> str:
    """The Content-Security-Policy of a page: it loads nothing, and runs this script, to the letter, and no other."""
    allowed = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if not runs:
        return allowed
    digest = base64.b64encode(hashlib.sha256(runs.encode()).digest()).decode()
    return f"{allowed}; script-src 'sha256-{digest}'"
