"""Flickr30k Entities (Plummer et al. 2017) in the layout of its repository and its annotations archive.

The root holds ``Sentences/<id>.txt`` (captions with phrases marked ``[/EN#<chain>/<type>... words]``),
``Annotations/<id>.xml`` (the boxes of each chain), the image ids in ``train.txt``, ``val.txt`` and ``test.txt``, and
the images in ``flickr30k-images/``, or in ``--images``.

A coreference chain becomes a region: all its boxes, its first type as category, and as expressions every phrase that
mentions it, with the id ``<image>_<sentence>_<phrase>``, both counted from 0. The protocol merges the boxes of a
phrase into one, which is `Region.box`. Phrases without a box (chain 0, which is "notvisual"; scenes; nobndbox) have no
region. Corners in the XML count from 1 and belong to the box, as in PASCAL VOC: x is xmin - 1 and the width is
xmax - xmin + 1, so that a box from 1 to the image's width covers it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Box, Expression, Region
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, no_partition, sample

_SPLITS = ("train", "val", "test")
_PHRASE = re.compile(r"\[/EN#(\d+)((?:/[^\s/\]]+)+)\s([^\]]*)\]")
# The chain that all phrases share which speak of nothing in the image: never a region.
_NOT_VISUAL = "0"
# Originals take some 5 kB, 1 kB and 300 kB. A phrase without its end is looked for to the end of its line, so that the
# captions' limit bounds time as well.
_XML_MAX_BYTES = 2**20
_CAPTIONS_MAX_BYTES = 2**16
_LIST_MAX_BYTES = 2**24


@dataclass(slots=True)
class _Chain:
    category: str | None = None
    expressions: list[Expression] = field(default_factory=list)


class Flickr30k:
    """Phrases of captions with the boxes they speak of."""

    name = "flickr30k"
    title = "Flickr30k Entities: phrases of 158,915 captions with 276 k boxes on 31,783 images"
    licence = "research and educational use only; pictures: Flickr terms of use"
    files = (
        "Sentences/<id>.txt: captions with marked phrases",
        "Annotations/<id>.xml: boxes",
        "train.txt, val.txt, test.txt: image ids of the splits, from the repository of Flickr30k Entities",
        "flickr30k-images/<id>.jpg: the images, or their folder as --images",
    )

    def samples(
        self, root: Path, *, images: Path | None, splits: Collection[str] | None, partition: str | None
    ) -> Samples:
        """See `shards.sources.base.Source.samples`. Images come in the order of split and id."""
        no_partition(partition, self.name)
        sentences = reading.need_folder(root / "Sentences", "expected the captions there; change --root")
        boxes = reading.need_folder(root / "Annotations", "expected the boxes there; change --root")
        lists = {split: root / f"{split}.txt" for split in _SPLITS if (root / f"{split}.txt").is_file()}
        if not lists:
            raise InputError(
                f"{root}: none of train.txt, val.txt, test.txt; copy them from the repository of Flickr30k Entities"
            )
        chosen = choose_splits(splits, lists.keys(), root)
        folder = reading.need_folder(
            images or root / "flickr30k-images", "expected the images there; name their folder with --images"
        )
        # All lists are read, so that an image in two of them is found whatever was chosen.
        split_of = {image: split for image, split in _read_lists(lists).items() if split in chosen}
        _need_all(sentences, ".txt", split_of)
        _need_all(boxes, ".xml", split_of)

        def records() -> Iterator[RawSample]:
            for image, split in sorted(split_of.items(), key=lambda item: (item[1], int(item[0]))):
                width, height, regions = _regions(image, split, sentences, boxes)
                if regions:
                    yield sample(self, folder / f"{image}.jpg", image, f"{image}.jpg", (width, height), regions)

        return Samples(records(), len(split_of))


def _read_lists(lists: dict[str, Path]) -> dict[str, str]:
    """The split of every image; ids become file names, so they have to be numbers."""
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        for number, line in enumerate(_read_text(path, _LIST_MAX_BYTES).splitlines(), start=1):
            image = line.strip()
            if not image:
                continue
            if not re.fullmatch(r"[0-9]{1,20}", image):
                raise InputError(f"{path}: line {number} is {image[:40]!r}, expected the number of an image")
            if image in split_of:
                raise InputError(
                    f"{path}: line {number}: image {image} is in split {split_of[image]} already; "
                    "remove it from one of them"
                )
            split_of[image] = split
    return split_of


def _need_all(folder: Path, suffix: str, split_of: dict[str, str]) -> None:
    there = {path.name for path in folder.iterdir()}
    missing = sorted(image for image in split_of if image + suffix not in there)
    if missing:
        raise InputError(
            f"{folder / missing[0]}{suffix}: no such file ({len(missing)} of {len(split_of)} images of the splits "
            "lack theirs); unpack the annotations again"
        )


def _check_size(path: Path, most: int) -> None:
    size = path.stat().st_size
    if size > most:
        raise InputError(f"{path}: {size} bytes, expected at most {most}; get the file again")


def _read_text(path: Path, most: int) -> str:
    _check_size(path, most)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}); get the file again") from error


def _regions(image: str, split: str, sentences: Path, boxes: Path) -> tuple[int, int, tuple[Region, ...]]:
    chains = _read_sentences(sentences / f"{image}.txt", image)
    width, height, boxes_of = _read_boxes(boxes / f"{image}.xml")
    spoken_of = [chain for chain in chains if chain in boxes_of]
    silent = [chain for chain in boxes_of if chain not in chains]
    regions = []
    for chain in (*spoken_of, *silent):
        entry = chains.get(chain, _Chain())
        regions.append(Region(chain, split, tuple(boxes_of[chain]), tuple(entry.expressions), category=entry.category))
    return width, height, tuple(regions)


def _read_sentences(path: Path, image: str) -> dict[str, _Chain]:
    """The chains of an image in the order of their first mention."""
    chains: dict[str, _Chain] = {}
    lines = [line for line in _read_text(path, _CAPTIONS_MAX_BYTES).splitlines() if line.strip()]
    for number, line in enumerate(lines):
        matches = list(_PHRASE.finditer(line))
        if len(matches) != line.count("[/EN#"):
            raise InputError(f"{path}: sentence {number}: a phrase is not [/EN#<chain>/<type>... words]; get it again")
        for index, match in enumerate(matches):
            chain, types, words = match.groups()
            words = reading.text(words, str(path))
            if not words:
                continue
            entry = chains.setdefault(chain, _Chain(category=types.split("/")[1]))
            entry.expressions.append(Expression(f"{image}_{number}_{index}", words))
    return chains


def _read_boxes(path: Path) -> tuple[int, int, dict[str, list[Box]]]:
    """Width, height and the boxes of each chain; an object may bear the names of several chains."""
    _check_size(path, _XML_MAX_BYTES)
    try:
        root = defusedxml.ElementTree.parse(path, forbid_dtd=True).getroot()
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise InputError(f"{path}: not the XML of Flickr30k Entities ({error}); get the file again") from error
    assert root is not None  # a document that parses has one
    boxes: dict[str, list[Box]] = {}
    for thing in root.iterfind("object"):
        corners = thing.find("bndbox")
        if corners is None:
            continue
        left, top, right, bottom = (_whole(corners, key, path) for key in ("xmin", "ymin", "xmax", "ymax"))
        if right < left or bottom < top:
            raise InputError(f"{path}: bndbox {left} {top} {right} {bottom}: its maximum lies before its minimum")
        box = (float(left - 1), float(top - 1), float(right - left + 1), float(bottom - top + 1))
        for name in thing.iterfind("name"):
            chain = (name.text or "").strip()
            if chain != _NOT_VISUAL:
                boxes.setdefault(chain, []).append(box)
    image = root.find("size")
    if image is None:
        raise InputError(f"{path}: element 'size' is missing; get the file again")
    claimed = {key: _whole(image, key, path) for key in ("width", "height")}
    return reading.side(claimed, str(path), "width"), reading.side(claimed, str(path), "height"), boxes


def _whole(parent: Any, key: str, path: Path) -> int:
    found = (parent.findtext(key) or "").strip()
    if not re.fullmatch(r"-?[0-9]{1,6}", found):
        raise InputError(f"{path}: element {key!r} of {parent.tag!r} is {found[:40]!r}, expected a whole number")
    return int(found)
