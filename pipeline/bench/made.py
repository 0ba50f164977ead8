"""Images and sets made for measuring: as large as real ones, with nothing in them to learn."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
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


def made_set(folder: Path, encoded: list[bytes], samples: int, width: int, height: int, tars: int = 0) -> Path:
    """A set of so many samples, each one of these images in turn, with one expression; the folder.

    They lie in so many tars, for those who read whole shards; else in one file, which has each image once.
    """
    which = np.arange(samples) % len(encoded)
    lengths = np.array([len(one) for one in encoded])
    sums = np.array([xxhash.xxh3_64_intdigest(one) for one in encoded], np.uint64)
    keys = np.char.add("sample-", np.arange(samples).astype(str))
    shards, lying = _in_tars(folder, encoded, keys.tolist(), tars) if tars else _in_one(folder, encoded, which)
    columns: dict[str, Any] = {
        "key": keys,
        "source": _same("made", samples),
        "picture_id": keys,
        "file_name": keys,
        "coco_id": pa.nulls(samples, pa.int64()),
        "width": np.full(samples, width, np.int32),
        "height": np.full(samples, height, np.int32),
        **lying,
        "image_ext": _same("jpg", samples),
        "image_length": lengths[which],
        "image_xxh3": sums[which],
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
    meta = {"version": VERSION, "shards": shards, "sets": [{"name": "made", "weight": 1.0}]}
    publish_tables(folder, [_table(SAMPLE_SCHEMA, columns)], [_table(EXAMPLE_SCHEMA, said)], meta)
    return folder


def _in_one(folder: Path, encoded: list[bytes], which: NDArray[np.int64]) -> tuple[list[str], dict[str, Any]]:
    """The shard's name, and the columns that tell where its samples lie."""
    shard = "shard-000000.tar"  # in name: by offset alone it is read
    (folder / shard).write_bytes(b"".join([*encoded, _RECORD]))
    lengths = np.array([len(one) for one in encoded])
    offsets = (np.cumsum(lengths) - lengths)[which]
    zeros, last = np.zeros(len(which), np.int32), np.full(len(which), lengths.sum())
    return [shard], {"shard": zeros, "image_offset": offsets, "json_offset": last}


def _in_tars(folder: Path, encoded: list[bytes], keys: list[str], tars: int) -> tuple[list[str], dict[str, Any]]:
    """The same of real tars, with a member for each image and record."""
    shards = [f"shard-{number:06d}.tar" for number in range(tars)]
    lying: dict[str, list[int]] = {"shard": [], "image_offset": [], "json_offset": []}
    each = -(-len(keys) // tars)
    for number, shard in enumerate(shards):
        with tarfile.open(folder / shard, "w", format=tarfile.USTAR_FORMAT) as archive:
            for at in range(number * each, min((number + 1) * each, len(keys))):
                lying["shard"].append(number)
                lying["image_offset"].append(_add(archive, f"{keys[at]}.jpg", encoded[at % len(encoded)]))
                lying["json_offset"].append(_add(archive, f"{keys[at]}.json", _RECORD))
    return shards, lying


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> int:
    """Write a member; the offset of its content."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    offset = archive.offset + tarfile.BLOCKSIZE
    archive.addfile(header, io.BytesIO(data))
    return offset


def _table(schema: pa.Schema, columns: dict[str, Any]) -> pa.Table:
    return pa.Table.from_arrays([pa.array(columns[field.name]).cast(field.type) for field in schema], schema=schema)


def _same(text: str, count: int) -> pa.Array:
    return pa.array([text]).take(pa.array(np.zeros(count, np.int64)))
