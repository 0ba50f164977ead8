"""One self-contained HTML page with some samples of a set, which the reader filters by split, source, kind and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from laconvnet.files import publish_text
from laconvnet.page import choices, script, templates
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.areas import BORDERS, SIZES
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.pages.cards import Card, cards
from laconvnet.shards.pages.choice import Wanted, choose

FILTERS = ("split", "source", "kind", "size")


def preview(
    folder: Path, out: Path, wanted: Wanted, keys: tuple[str, ...] = (), number: int = 60, seed: int = 0
) -> dict[str, Any]:
    """Write the page on at most ``number`` matching samples, or those of these keys, to ``out``, whole or not at all.

    Returns how many samples there are, match and are shown. The page needs nothing beside it and loads nothing. Raises
    InputError as `Manifest.open` and `choose`, and for a sample that is damaged.
    """
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; expected the name of an HTML file")
    manifest = Manifest.open(folder)
    choice = choose(manifest, wanted, keys, number, seed)
    shown = cards(manifest, choice.samples, choice.examples)
    counts = {"samples": len(manifest.samples), "matching": choice.matching, "shown": len(shown)}
    page = (
        templates(Path(__file__).parent)
        .get_template("preview.html.j2")
        .render(
            title=folder.resolve().name,
            folder=folder.resolve(),
            source=manifest.meta["source"],
            licence=manifest.meta["licence"],
            conditions=" ".join(filter(None, [wanted.told(), *(f"--key {key}" for key in keys)])),
            seed=seed,
            **counts,
            cards=shown,
            filters=_filters(shown),
            borders=BORDERS,
            script=script(),
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    publish_text(out, page)
    return {"page": str(out), **counts}


def _filters(shown: list[Card]) -> dict[str, list[str]]:
    """What the reader may choose: the values of each filter that occur, where there are two or more."""
    found: dict[str, set[str]] = {name: set() for name in FILTERS}
    for card in shown:
        for entry in card.entries:
            found["source"].add(card.source)
            found["split"].add(entry.split)
            found["kind"].add(entry.kind)
            found["size"].update([entry.size] if entry.size else [])
    return choices(found, SIZES)
