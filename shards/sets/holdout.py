"""Tells when two images of different sets are one, and which must not be trained on.

RefCOCO, COCO, VQAv2 and half of Visual Genome share images, Flickr30k and SNLI-VE do. An image is known by

* the ids that a source gives, or its file name tells: of COCO, of Flickr;
* its file name without folder, case and extension (`shards.format.pictures.name_of`);
* the bytes of its file, as the source has it or as it is stored;
* its pixels: a copy in another lossless format, or with other EXIF, has the same;
* its difference hash: of copies that were compressed, resized or cropped a little it differs in few bits of 256. That
  of an image that is nearly flat says little, and is not used (`shards.sets.near.telling`).

All but the stored bytes are in the table of pictures, which also has the images that were lost when a set was built. Of
a set of before, without that table, there is what its samples tell.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.pictures import NOT_STORED, PICTURE_SCHEMA, ids_of, name_of, picture_row
from laconvnet.shards.format.tables import Columns
from laconvnet.shards.sets.near import nearest, packed, telling

_LOG = logging.getLogger(__name__)

# Bits of 256. docs/datasets.md has the distances of copies and of strangers that these were chosen by, and the command.
SAME_WITHIN, DOUBTFUL_WITHIN = 32, 48
_TOGETHER = 2**14  # images that are held and compared at once
TRAIN, UNKNOWN_SPLIT = "train", "unknown"
PIXELS, DHASH = "pixels", "difference hash"
_KINDS = {"coco": "COCO id", "flickr": "Flickr id"}

Identity = tuple[str, str]


def identities(
    source: str,
    file_name: str,
    coco_id: int | None,
    *bytes_xxh3: int | None,
    ids: Iterable[str] = (),
    pixels_xxh3: int | None = None,
) -> tuple[Identity, ...]:
    """The identities of an image, as (kind, value), the surest first; one in common means the same image."""
    known = sorted({*ids_of(source, file_name, coco_id), *ids})
    split = (id.partition(":") for id in known)
    found = [(_KINDS.get(collection, f"{collection} id"), number) for collection, _, number in split]
    name = name_of(source, file_name)
    found += [("file name", name)] if name else []
    found += [("bytes", f"{xxh3:016x}") for xxh3 in dict.fromkeys(bytes_xxh3) if xxh3 is not None]
    found += [] if pixels_xxh3 is None else [(PIXELS, f"{pixels_xxh3:016x}")]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Known:
    """An image of a set, its row in the samples (-1 where it is not stored), and all that it is known by."""

    row: int
    key: str
    file_name: str
    splits: Sequence[str]
    identities: tuple[Identity, ...]
    dhash: bytes | None


def known_images(manifest: Manifest) -> Iterator[Known]:
    """The images of a set, those that were lost too."""
    pictures = picture_tables(manifest)
    return known_of(pictures, manifest.sample_columns, str(manifest.meta["source"]))


def known_of(pictures: Iterable[pa.Table], samples: Columns, source: str) -> Iterator[Known]:
    """The images of a table of pictures, given in parts, and of its samples; ``source`` is that of those not stored."""
    parts = (part for table in pictures for part in table.to_batches(max_chunksize=_TOGETHER))
    for part in parts:
        rows = part["row"].to_numpy()
        stored = np.flatnonzero(rows != NOT_STORED)
        columns = (samples.values(name, rows[stored]) for name in ("source", "image_xxh3"))
        of_sample = dict(zip(stored.tolist(), zip(*columns, strict=True), strict=True))
        for at, row in enumerate(part.to_pylist()):
            its_source, image_xxh3 = of_sample.get(at, (source, None))
            names = {"ids": row["ids"], "pixels_xxh3": row["pixels_xxh3"]}
            known_by = identities(its_source, row["file_name"], None, row["file_xxh3"], image_xxh3, **names)
            yield Known(row["row"], row["key"], row["file_name"], row["splits"], known_by, row["dhash"])


def picture_tables(manifest: Manifest) -> Iterator[pa.Table]:
    """The table of pictures of a set in parts, made of its samples where it has none, which is told."""
    if manifest.pictures is not None:
        yield from (pa.table(batch) for batch in manifest.pictures.to_batches())
        return
    _say_what_is_not_known(manifest.folder.absolute())
    first = 0
    for batch in manifest.samples.select(["key", "source", "file_name", "coco_id", "splits"]).to_batches():
        rows = [_row_of_sample(**sample, row=first + at) for at, sample in enumerate(batch.to_pylist())]
        yield pa.Table.from_pylist(rows, schema=PICTURE_SCHEMA)
        first += len(batch)


def _row_of_sample(
    key: str, source: str, file_name: str, coco_id: int | None, splits: list[str], row: int
) -> dict[str, Any]:
    return picture_row(key, file_name, ids_of(source, file_name, coco_id), splits, row=row)


@cache  # a line of each set in a process
def _say_what_is_not_known(folder: Path) -> None:
    _LOG.warning(
        "%s: was built before sets knew their images: those that were lost, ids of Flickr, and copies that are not the "
        "same to the byte cannot be recognised; build it again in another folder",
        folder,
    )


def say_what_splits_are_missing(manifest: Manifest) -> None:
    """Warn of a set whose held-out images are wanted and that was built with some of its splits only."""
    splits = manifest.meta.get("options", {}).get("split")
    if splits:
        told = f"was built with --split {' '.join(splits)}: it knows nothing of the held-out images of other splits"
        _LOG.warning("%s: %s", manifest.folder, told)


@dataclass(frozen=True, slots=True)
class Held:
    """An image that is held out: the number of its set among those given, its first such split, and itself."""

    number: int
    split: str
    image: Known


@dataclass(frozen=True, slots=True)
class Match:
    """An image that is, or looks like, one that is held out: by what both have, and ``distance`` in bits, or 0."""

    image: Known
    held: Held
    by: Identity
    distance: int = 0

    def told(self, place: str) -> str:
        """In words, where ``place`` is the set that the image is held out in."""
        return f"in split {self.held.split} of {place}, by {' '.join(self.by)}"


class HeldOut:
    """The images of some sets that have a split other than "train", for those of other sets to be compared with.

    An image that was lost with its split is among them: it may be one of a test.
    """

    def __init__(self, sets: Sequence[Manifest]) -> None:
        self._images: list[Held] = []
        self._by_identity: dict[Identity, int] = {}
        for number, manifest in enumerate(sets):
            for image in known_images(manifest):
                split = _held_out_split(image)
                if split is not None:
                    for identity in image.identities:
                        self._by_identity.setdefault(identity, len(self._images))
                    self._images.append(Held(number, split, image))
        hashed = [held for held in self._images if held.image.dhash]
        hashes = packed([held.image.dhash for held in hashed if held.image.dhash])
        known = telling(hashes)
        self._hashed = [held for held, is_known in zip(hashed, known.tolist(), strict=True) if is_known]
        self._hashes = hashes[known]

    def find(self, images: Iterable[Known]) -> tuple[list[Match], list[Match]]:
        """Of these images, those that are stored: which are held out, and which look as if they might be."""
        same: list[Match] = []
        doubtful: list[Match] = []
        stored = (image for image in images if image.row != NOT_STORED)
        while together := list(islice(stored, _TOGETHER)):
            equal = list(self._equal(together))
            done = {match.image.row for match in equal}
            same += equal
            for match in self._near([image for image in together if image.row not in done and image.dhash]):
                (same if match.distance <= SAME_WITHIN else doubtful).append(match)
        return same, doubtful

    def _equal(self, images: list[Known]) -> Iterator[Match]:
        for image in images:
            shared = next((identity for identity in image.identities if identity in self._by_identity), None)
            if shared is not None:
                yield Match(image, self._images[self._by_identity[shared]], shared)

    def _near(self, images: list[Known]) -> Iterator[Match]:
        queries = packed([image.dhash for image in images if image.dhash])
        places, distances = nearest(queries, self._hashes, DOUBTFUL_WITHIN)
        for at in np.flatnonzero(places >= 0).tolist():
            held, bits = self._hashed[places[at]], int(distances[at])
            told = f"{bits} bits of 256 from {held.image.file_name or held.image.key}"
            yield Match(images[at], held, (DHASH, told), bits)


def _held_out_split(image: Known) -> str | None:
    """The first split other than "train"; None where an image has none."""
    unknown = [] if image.splits or image.row != NOT_STORED else [UNKNOWN_SPLIT]
    return next((split for split in (*image.splits, *unknown) if split != TRAIN), None)
