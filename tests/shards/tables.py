"""Small tables of own data, with the pictures that they speak of."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.shards.faulty import draw

Row = dict[str, Any]


def write(path: Path, rows: Sequence[Row], *pictures: str) -> Path:
    """A table in the format of its name; columns are those of all rows. The pictures come to its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(names)
            writer.writerows([_text(row.get(name)) for name in names] for row in rows)
    draw(path.parent, *pictures)
    return path


def _text(value: object) -> object:
    return json.dumps(value) if isinstance(value, list | dict) else value


def row(picture: str = "a.jpg", text: str | None = "a thing", box: Any = (1, 2, 10, 20), **more: Any) -> Row:
    """An expression of a picture of 64x48 pixels."""
    return {"picture": picture, "expression": text, "box": None if box is None else list(box), **more}
