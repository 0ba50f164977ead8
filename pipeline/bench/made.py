"""Images and sets made for measuring: as large as real ones, with nothing in them to learn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from PIL import Image

from laconvnet.shards.format.manifest import EXAMPLE_SCHEMA, SAMPLE_SCHEMA, VERSION, publish_tables

WORDS = ("the", "box", "on", "left")
_RECORD = b"{}"


def images(count: int, width: int, height: int) -> list[bytes]:
    """JPEGs of soft colours with grain: as many bytes as a photograph's."""
    draw = np.random.default_rng(0)
    made = []
    for _ in range(count):
        colours = Image.fromarray(draw.integers(0, 256, (12, 16, 3)).astype(np.uint8))
        soft = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        grain = draw.normal(0, 5, (height, width, 1)).astype(np.float32)
        stream = io.BytesIO()
        Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        made.append(stream.getvalue())
    return made


def made_set(folder: Path, encoded: list[bytes], samples: int, width: int, height: int) -> Path:
    """A set of so many samples in one shard, each one of these images in turn, with one expression; the folder."""
    shard = "shard-000000.tar"  # in name: nothing here reads but by offset
    (folder / shard).write_bytes(b"".join([*encoded, _RECORD]))
    which = np.arange(samples) % len(encoded)
    lengths = np.array([len(one) for one in encoded])
    sums = np.array([xxhash.xxh3_64_intdigest(one) for one in encoded], np.uint64)
    keys = np.char.add("sample-", np.arange(samples).astype(str))
    columns: dict[str, Any] = {
        "key": keys,
        "source": _same("made", samples),
        "picture_id": keys,
        "file_name": keys,
        "coco_id": pa.nulls(samples, pa.int64()),
        "width": np.full(samples, width, np.int32),
        "height": np.full(samples, height, np.int32),
        "shard": np.zeros(samples, np.int32),
        "image_ext": _same("jpg", samples),
        "image_offset": (np.cumsum(lengths) - lengths)[which],
        "image_length": lengths[which],
        "image_xxh3": sums[which],
        "json_offset": np.full(samples, lengths.sum()),
        "json_length": np.full(samples, len(_RECORD)),
        "json_xxh3": np.full(samples, xxhash.xxh3_64_intdigest(_RECORD), np.uint64),
        "splits": pa.array([["train"]]).take(pa.array(np.zeros(samples, np.int64))),
        "set": np.zeros(samples, np.int16),
    }
    said: dict[str, Any] = {
        "sample": np.arange(samples, dtype=np.int32),
        "kind": _same("expression", samples),
        "split": _same("train", samples),
        "region": np.zeros(samples, np.int32),
        "item_id": keys,
        "text": _same(" ".join(WORDS), samples),
        "answer": pa.nulls(samples, pa.string()),
        "answers": pa.array([[]], pa.list_(pa.string())).take(pa.array(np.zeros(samples, np.int64))),
        "family": pa.nulls(samples, pa.string()),
        **{name: np.full(samples, 100, np.float32) for name in "xywh"},
        "has_mask": pa.array(np.zeros(samples, bool)),
    }
    meta = {"version": VERSION, "shards": [shard], "sets": [{"name": "made", "weight": 1.0}]}
    publish_tables(folder, [_table(SAMPLE_SCHEMA, columns)], [_table(EXAMPLE_SCHEMA, said)], meta)
    return folder


def _table(schema: pa.Schema, columns: dict[str, Any]) -> pa.Table:
    return pa.Table.from_arrays([pa.array(columns[field.name]).cast(field.type) for field in schema], schema=schema)


def _same(text: str, count: int) -> pa.Array:
    return pa.array([text]).take(pa.array(np.zeros(count, np.int64)))
