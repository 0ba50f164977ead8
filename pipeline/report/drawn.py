"""A page of some examples as a validation saw them: image, text, answer and truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laconvnet.files import publish_text
from laconvnet.page import templates
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.report.sheet import Card, Form, drawn, spread
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import Manifest


def draw(
    out: Path, title: str, line: str, manifest: Manifest, answers: Sequence[Mapping[str, Any]], most: int
) -> list[Card]:
    """Write a page with at most so many of the answers, spread evenly over them, to ``out``; their cards.

    A set whose images cannot be shown leaves a page that says why.
    """
    form: Form = "none"
    cards: list[Card] = []
    try:
        form, cards = drawn(manifest, spread(answers, most))
        note = "These answers are neither boxes, masks nor words that can be held against the truth."
    except (InputError, ConfigError, OSError) as error:
        note = f"The images cannot be shown: {error}"
    page = templates(Path(__file__).parent).get_template("drawn.html.j2")
    publish_text(out, page.render(title=title, line=line, form=form, chosen=cards, note="" if cards else note))
    return cards
