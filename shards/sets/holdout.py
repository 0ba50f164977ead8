"""Tells when two samples of different sets show the same image.

RefCOCO, COCO, VQAv2 and half of Visual Genome share images, Flickr30k and SNLI-VE do. An image is known by

* its COCO id: the column, or a file name like ``COCO_train2014_000000123456.jpg`` or ``000000123456.jpg``;
* its file name without folder, case and extension. A bare number ("25.jpg") is a name only among the data sets that
  number the same collection: image 25 of Visual Genome is not image 25 of ReferIt;
* its bytes, as stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import TypeVar

from laconvnet.shards.format.manifest import Manifest

# The suffix is RefCOCO's, whose file names carry the number of an annotation.
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})(?:_\d+)?", re.IGNORECASE)
_FLICKR = re.compile(r"flickr30k|snli[-_]?ve", re.IGNORECASE)

Identity = tuple[str, str]
Held = TypeVar("Held")


def identities(source: str, file_name: str, coco_id: int | None, image_xxh3: int) -> tuple[Identity, ...]:
    """The identities of an image, as (kind, value), the surest first; one in common means the same image."""
    stem = PurePosixPath(PureWindowsPath(file_name).as_posix()).stem
    coco_name = _COCO_NAME.fullmatch(stem)
    found = []
    if coco_id is not None or coco_name:
        number = coco_id if coco_id is not None else int(coco_name[1]) if coco_name else 0
        found.append(("COCO id", str(number)))
    if not coco_name:
        collection = "" if not stem.isdigit() else "flickr30k/" if _FLICKR.match(source) else f"{source}/"
        found.append(("file name", collection + stem.lower()))
    found.append(("bytes", f"{image_xxh3:016x}"))
    return tuple(found)


def manifest_identities(manifest: Manifest) -> Iterator[tuple[Identity, ...]]:
    """`identities` of each row of a manifest's samples."""
    columns = [manifest.samples[name].to_pylist() for name in ("source", "file_name", "coco_id", "image_xxh3")]
    for source, file_name, coco_id, image_xxh3 in zip(*columns, strict=True):
        yield identities(source, file_name, coco_id, image_xxh3)


def shared(
    known: Iterable[tuple[Identity, ...]], held: Mapping[Identity, Held]
) -> Iterator[tuple[int, Identity, Held]]:
    """Of images known by these identities those that are held out: their place, by which identity, and where."""
    for row, known_by in enumerate(known):
        match = next((identity for identity in known_by if identity in held), None)
        if match is not None:
            yield row, match, held[match]


def held_out(manifest: Manifest) -> dict[Identity, str]:
    """The identities of every image with a split other than "train", and the first such split."""
    found: dict[Identity, str] = {}
    for splits, known_by in zip(manifest.samples["splits"].to_pylist(), manifest_identities(manifest), strict=True):
        other = next((split for split in splits if split != "train"), None)
        if other is not None:
            for identity in known_by:
                found.setdefault(identity, other)
    return found
