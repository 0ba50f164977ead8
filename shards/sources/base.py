"""The interface of a source: original files in, records out."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import xxhash

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.pictures import ids_of
from laconvnet.shards.format.raw import Fault, RawSample
from laconvnet.shards.format.raw import Samples as Samples  # what a source gives
from laconvnet.shards.format.record import Question, Record, Region

_PLAIN_NAME = re.compile(r"[0-9A-Za-z_+./-]{1,70}")  # told from others by its key, but for a/b.jpg and a_b.jpg
_TAIL = 40


class Source(Protocol):
    """One data set in its original layout."""

    @property
    def name(self) -> str:
        """The word that selects it, and the source of its records."""

    @property
    def title(self) -> str:
        """One line on what the data set is."""

    @property
    def licence(self) -> str:
        """The terms of annotations and images, kept in every record."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files expected under the root, one description each."""

    def samples(
        self,
        root: Path,
        *,
        images: Path | None,
        splits: Collection[str] | None,
        partition: str | None,
        with_images: bool = True,
    ) -> Samples:
        """One sample per image that has anything in the chosen splits (all for None), in an order that is fixed.

        ``images`` is the folder of the images where they are not under the root; ``partition`` chooses among the
        partitions of a data set. Without ``with_images`` no image is looked for or opened. What is wrong with a file as
        a whole is found here, before the first sample: InputError names the path looked for, the layout expected and
        the option to change. What is wrong with one entry is a fault of a sample, or of the account where it belongs to
        none (`shards.sources.faults`).
        """


def sample(
    source: Source,
    image: Path,
    picture_id: str,
    file_name: str,
    size: tuple[int, int] = (0, 0),
    regions: tuple[Region, ...] = (),
    questions: tuple[Question, ...] = (),
    coco_id: int | None = None,
    faults: tuple[Fault, ...] = (),
    flickr_id: int | None = None,
) -> RawSample:
    """What a source says of an image, and where that lies; ``size``, width and height, is 0 where no file gives it."""
    record = Record(source.name, picture_id, file_name, *size, source.licence, regions, questions, coco_id)
    return RawSample(record, image, faults, ids_of(source.name, file_name, coco_id, flickr_id))


def picture_id(name: str) -> str:
    """The id of an image that has none but its name: that, or its end and a digest where a key would not hold it."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    tail = re.sub(r"[^0-9A-Za-z_+.-]", "_", name[-_TAIL:])
    return f"{tail}-{xxhash.xxh3_64_hexdigest(name.encode())}"


def choose_splits(requested: Collection[str] | None, known: Collection[str], where: Path) -> frozenset[str]:
    """The splits to build: those requested, or all. Raises InputError for one that is not there."""
    for split in requested or ():
        if split not in known:
            raise InputError(f"--split {split}: {where} has no such split; expected one of {', '.join(sorted(known))}")
    return frozenset(requested or known)


def no_partition(partition: str | None, name: str) -> None:
    """Raise InputError where a partition is asked of a data set that has none."""
    if partition is not None:
        raise InputError(f"--partition {partition}: {name} has one partition only; leave the option out")
