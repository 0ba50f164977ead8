"""Images that stay in a pretraining set though they look like one that is held out: a table, and a page to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from laconvnet.files import publish_text, publishing
from laconvnet.images import data_uri
from laconvnet.page import templates
from laconvnet.shards.format.manifest import Manifest, open_writer
from laconvnet.shards.format.pictures import NOT_STORED
from laconvnet.shards.sets.holdout import DOUBTFUL_WITHIN, SAME_WITHIN, Known, Match

DOUBTFUL, DOUBTFUL_PAGE = "doubtful.parquet", "doubtful.html"
DOUBTFUL_SCHEMA = pa.schema(
    [
        pa.field("set", pa.int16(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("held_set", pa.string(), nullable=False),
        pa.field("held_split", pa.string(), nullable=False),
        pa.field("held_key", pa.string(), nullable=False),
        pa.field("held_file_name", pa.string(), nullable=False),
        pa.field("distance", pa.int16(), nullable=False),
    ]
)
_SHOWN = 300  # pairs: some 7 MB of page
_SIDE = 240  # of a small image, in pixels


@dataclass(frozen=True, slots=True)
class Pair:
    """An image of input ``number`` and what it looks like."""

    number: int
    match: Match


def publish_doubtful(out: Path, pairs: Sequence[Pair], sets: Sequence[Manifest], names: Sequence[str]) -> None:
    """Write both files into ``out``, the nearest pairs first; the sets are those that matches and pairs number."""
    ordered = sorted(pairs, key=lambda pair: (pair.match.distance, pair.number, pair.match.image.key))
    rows = [_row(pair, names) for pair in ordered]
    with publishing(out / DOUBTFUL) as temporary, open_writer(temporary, DOUBTFUL_SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=DOUBTFUL_SCHEMA))
    publish_text(out / DOUBTFUL_PAGE, _page(ordered, sets, names))


def _row(pair: Pair, names: Sequence[str]) -> dict[str, Any]:
    image, held = pair.match.image, pair.match.held
    return {
        "set": pair.number,
        "key": image.key,
        "file_name": image.file_name,
        "held_set": names[held.number],
        "held_split": held.split,
        "held_key": held.image.key,
        "held_file_name": held.image.file_name,
        "distance": pair.match.distance,
    }


def _page(pairs: Sequence[Pair], sets: Sequence[Manifest], names: Sequence[str]) -> str:
    shown = [
        {
            "distance": pair.match.distance,
            "images": [
                _card(pair.match.image, sets[pair.number], names[pair.number]),
                _card(pair.match.held.image, sets[pair.match.held.number], names[pair.match.held.number]),
            ],
        }
        for pair in pairs[:_SHOWN]
    ]
    return (
        templates(Path(__file__).parent)
        .get_template("doubtful.html.j2")
        .render(shown=shown, count=len(pairs), table=DOUBTFUL, same=SAME_WITHIN, doubtful=DOUBTFUL_WITHIN)
    )


def _card(image: Known, manifest: Manifest, name: str) -> dict[str, Any]:
    small = None if image.row == NOT_STORED else data_uri(manifest.read_image(image.row), 0, _SIDE)
    return {"image": small, "name": image.file_name, "key": image.key, "splits": image.splits, "set": name}
