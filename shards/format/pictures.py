"""By what a set knows its images, so that those of other sets can be compared with them.

The table has a row for each image that the annotations name in the splits that were read, whether it was stored or
lost: its names, its splits, and what tells its content. ``row`` is that of the samples' table, -1 for an image that is
not stored. Those that are stored come in the order of the samples, behind all others those that no shard saw. Of an
image of "train" of which nothing is left the file is not read.

* ``ids``: the numbers that collections give to images, with their names before them: ``coco:139``, ``flickr:16112``.
* ``file_bytes``, ``file_xxh3``: size and checksum of the source's file, null where it was not read.
* ``pixels_xxh3``: the checksum of size and RGB pixels, upright, as the file decodes: the same for every lossless copy.
* ``dhash``: the difference hash (`shards.build.content`), null where the image could not be decoded, or is tiny.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow as pa

from laconvnet.shards.format.raw import Named, RawSample, storable

DHASH_BYTES = 32
PICTURE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("ids", pa.list_(pa.string()), nullable=False),
        pa.field("splits", pa.list_(pa.string()), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("file_bytes", pa.int64()),
        pa.field("file_xxh3", pa.uint64()),
        pa.field("pixels_xxh3", pa.uint64()),
        pa.field("dhash", pa.binary(DHASH_BYTES)),
    ]
)
NOT_STORED = -1
COCO, FLICKR = "coco", "flickr"

# Of both eras, COCO_train2014_000000000139.jpg and 000000000139.jpg. The suffix is RefCOCO's, whose file names carry
# the number of an annotation.
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})(?:_\d+)?", re.IGNORECASE)
_PLAIN_NAME = re.compile(r"([0-9A-Za-z_-]+)\.[0-9A-Za-z]+")
_NUMBER = re.compile(r"[0-9]{1,20}")
_OF_FLICKR = re.compile(r"flickr30k|snli[-_]?ve", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Content:
    """What tells the content of an image: the columns of that name, None where it is not known."""

    file_bytes: int | None = None
    file_xxh3: int | None = None
    pixels_xxh3: int | None = None
    dhash: bytes | None = None


UNKNOWN = Content()


def ids_of(source: str, file_name: str, coco_id: int | None = None, flickr_id: int | None = None) -> tuple[str, ...]:
    """Every id of an image that its source gives, or that its file name tells."""
    stem = stem_of(file_name)
    coco_name = _COCO_NAME.fullmatch(stem)
    found = {
        (COCO, coco_id),
        (FLICKR, flickr_id),
        (COCO, int(coco_name[1]) if coco_name else None),
        (FLICKR, int(stem) if _NUMBER.fullmatch(stem) and _OF_FLICKR.match(source) else None),
    }
    return tuple(sorted(f"{collection}:{number}" for collection, number in found if number is not None))


def named(source: str, file_name: str, coco_id: int | None = None, flickr_id: int | None = None) -> Named:
    """The names of an image by this file name and these ids."""
    return Named(file_name, ids_of(source, file_name, coco_id, flickr_id))


def stem_of(file_name: str) -> str:
    """A file name without folder and extension."""
    if plain := _PLAIN_NAME.fullmatch(file_name):  # nearly all of them, and paths take their time
        return plain[1]
    return PurePosixPath(PureWindowsPath(file_name).as_posix()).stem


def name_of(source: str, file_name: str) -> str | None:
    """The name that an image is known by; None where it says no more than an id, or nothing.

    A bare number ("25.jpg") is a name only among the data sets that number the same collection: image 25 of Visual
    Genome is not image 25 of ReferIt.
    """
    stem = stem_of(file_name)
    if not stem or _COCO_NAME.fullmatch(stem):
        return None
    collection = "" if not stem.isdigit() else "flickr30k/" if _OF_FLICKR.match(source) else f"{source}/"
    return collection + stem.lower()


def sample_row(sample: RawSample, content: Content = UNKNOWN, row: int = NOT_STORED) -> dict[str, Any]:
    """The row of a raw sample; its splits are those of its annotations, whether they were lost or not."""
    record = sample.record
    ids = {*ids_of(record.source, record.file_name, record.coco_id), *sample.ids}
    return picture_row(record.key, record.file_name, ids, sample.splits, content, row)


def picture_row(
    key: str,
    file_name: str,
    ids: Iterable[str],
    splits: Iterable[str],
    content: Content = UNKNOWN,
    row: int = NOT_STORED,
) -> dict[str, Any]:
    """A row of the table."""
    return {
        "key": storable(key),
        "file_name": storable(file_name),
        "ids": sorted(map(storable, ids)),
        "splits": sorted(map(storable, splits)),
        "row": row,
        **{name: getattr(content, name) for name in content.__slots__},
    }
