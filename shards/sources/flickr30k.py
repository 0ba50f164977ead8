"""Flickr30k Entities (Plummer et al. 2017) in the layout of its repository and its annotations archive.

The root holds ``Sentences/<id>.txt`` (captions with phrases marked ``[/EN#<chain>/<type>... words]``),
``Annotations/<id>.xml`` (the boxes of each chain), the image ids in ``train.txt``, ``val.txt`` and ``test.txt``, and
the images in ``flickr30k-images/``, or in ``--images``.

A coreference chain becomes a region: all its boxes, its first type as category, and as expressions every phrase that
mentions it, with the id ``<image>_<sentence>_<phrase>``, both counted from 0. The protocol merges the boxes of a
phrase into one, which is `Region.box`. Phrases without a box (chain 0, which is "notvisual"; scenes; nobndbox) have no
region: the ledger has them under "no box", and so images without any. Lines end at a line feed alone. Corners in the
XML count from 1 and belong to the box, as in PASCAL VOC: x is xmin - 1 and the width is xmax - xmin + 1, so that a box
from 1 to the image's width covers it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.pictures import named
from laconvnet.shards.format.raw import Account, Fault, Named, RawSample
from laconvnet.shards.format.record import Box, Expression, Region
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, no_partition, sample
from laconvnet.shards.sources.faults import EntryFault, entry, lost

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
        self,
        root: Path,
        *,
        images: Path | None,
        splits: Collection[str] | None,
        partition: str | None,
        with_images: bool = True,
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
        advice = "expected the images there; name their folder with --images"
        folder = reading.image_folder(images or root / "flickr30k-images", advice, with_images)
        # All lists are read, so that an image in two of them is found whatever was chosen.
        split_of = {image: split for image, split in _read_lists(lists).items() if split in chosen}
        account = Account()

        def records() -> Iterator[RawSample]:
            for image, split in sorted(split_of.items(), key=lambda item: (item[1], int(item[0]))):
                account.count(split, picture=1)
                files = sentences / f"{image}.txt", boxes / f"{image}.xml"
                name = f"{image}.jpg"
                names = f"{self.name}-{image}", named(self.name, name)
                read = _read_image(image, split, *files, account, *names)
                if read is not None:
                    size, regions, faults = read
                    yield sample(self, folder / name, image, name, size, tuple(regions), faults=tuple(faults))

        return Samples(records(), len(split_of), account)


def _read_lists(lists: dict[str, Path]) -> dict[str, str]:
    """The split of every image; ids become file names, so they have to be numbers."""
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        for number, line in enumerate(_read_text(path, _LIST_MAX_BYTES).split("\n"), start=1):
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


def _read_bytes(path: Path, most: int) -> bytes:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= most else b""
    except FileNotFoundError as error:
        raise EntryFault("no file", f"{path}: no such file; unpack the annotations again") from error
    if size > most:
        raise EntryFault("broken file", f"{path}: {size} bytes, expected at most {most}; get the file again")
    return data


def _read_text(path: Path, most: int) -> str:
    try:
        return _read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise EntryFault("broken file", f"{path}: not UTF-8 text ({error.reason}); get the file again") from error


_Read = tuple[tuple[int, int], list[Region], list[Fault]]


def _read_image(
    image: str, split: str, sentences: Path, boxes: Path, account: Account, key: str, names: Named
) -> _Read | None:
    """Size, regions and faults of an image; None where one of its files cannot be read, which the account is told."""
    takes, file = {"picture": 1}, sentences
    try:
        captions = _read_sentences(sentences, image, split)
        account.count(split, expression=captions.marked)
        takes["expression"] = captions.marked
        file = boxes
        listed = _read_boxes(boxes)
        if not captions.marked and not listed.boxes:
            raise EntryFault("no box", f"{boxes}: neither a box here nor a phrase in {sentences}")
    except EntryFault as error:
        account.faults.append(lost(error, "picture", image, split, file, takes, None, key, names))
        return None
    account.count(split, region=len(listed.boxes), box=sum(map(len, listed.boxes.values())))
    return (listed.width, listed.height), *_regions(captions, listed, split)


def _regions(captions: _Captions, listed: _Listed, split: str) -> tuple[list[Region], list[Fault]]:
    """The regions of an image, those that are spoken of first, and all faults."""
    faults = list(captions.faults)
    for chain, phrases in ((chain, known.expressions) for chain, known in captions.chains.items()):
        if chain not in listed.boxes:
            why = "shows nothing" if chain == _NOT_VISUAL else listed.without.get(chain, "is not there")
            for phrase in phrases:
                told = f"{captions.path}: phrase {phrase.id} {phrase.text!r}: chain {chain} of {listed.path} {why}"
                error = EntryFault("no box", told)
                faults.append(lost(error, "expression", phrase.id, split, captions.path, {"expression": 1}, chain))
    spoken_of = [chain for chain in captions.chains if chain in listed.boxes]
    silent = [chain for chain in listed.boxes if chain not in captions.chains]
    regions = []
    for chain in (*spoken_of, *silent):
        known = captions.chains.get(chain, _Chain())
        takes = {"region": 1, "expression": len(known.expressions), "box": len(listed.boxes[chain])}
        with entry(faults, "region", chain, split, listed.path, takes, chain):
            if chain in listed.spoilt:
                raise listed.spoilt[chain]
            given = tuple(listed.boxes[chain])
            regions.append(Region(chain, split, given, tuple(known.expressions), category=known.category))
    return regions, faults


@dataclass(slots=True)
class _Captions:
    """The chains of an image in the order of their first mention, and how many phrases are marked in the file."""

    path: Path
    chains: dict[str, _Chain] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    marked: int = 0


def _read_sentences(path: Path, image: str, split: str) -> _Captions:
    """The captions, a line each; one with a mark that is none is lost as a whole, for phrases are counted in it."""
    found = _Captions(path)
    lines = [line for line in _read_text(path, _CAPTIONS_MAX_BYTES).split("\n") if line.strip()]
    for number, line in enumerate(lines):
        marked = line.count("[/EN#")
        found.marked += marked
        with entry(found.faults, "expression", f"{image}_{number}", split, path, {"expression": marked}):
            matches = list(_PHRASE.finditer(line))
            if len(matches) != marked:
                told = f"{path}: sentence {number}: a phrase is not [/EN#<chain>/<type>... words]; get it again"
                raise EntryFault("phrase", told)
            for index, match in enumerate(matches):
                chain, types, given = match.groups()
                id = f"{image}_{number}_{index}"
                with entry(found.faults, "expression", id, split, path, {"expression": 1}, chain):
                    words = reading.text(given, f"{path}: phrase {id}")
                    if not words:
                        raise EntryFault("blank", f"{path}: phrase {id} of chain {chain} has no words")
                    known = found.chains.setdefault(chain, _Chain(category=types.split("/")[1]))
                    known.expressions.append(Expression(id, words))
    return found


@dataclass(slots=True)
class _Listed:
    """What an XML file tells of an image: size, boxes by chain, chains without and why, and those with a bad one."""

    path: Path
    width: int
    height: int
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)
    spoilt: dict[str, EntryFault] = field(default_factory=dict)


def _read_boxes(path: Path) -> _Listed:
    """The boxes of each chain; an object may bear the names of several chains. A bad box stands as one of NaN."""
    data = _read_bytes(path, _XML_MAX_BYTES)
    try:
        root = defusedxml.ElementTree.fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise EntryFault(
            "broken file", f"{path}: not the XML of Flickr30k Entities ({error}); get the file again"
        ) from error
    image = root.find("size")
    if image is None:
        raise EntryFault("field", f"{path}: element 'size' is missing; get the file again")
    claimed = {key: _whole(image, key, path) for key in ("width", "height")}
    found = _Listed(path, reading.side(claimed, str(path), "width"), reading.side(claimed, str(path), "height"))
    for thing in root.iterfind("object"):
        names = [(name.text or "").strip() for name in thing.iterfind("name")]
        chains = [chain for chain in names if chain != _NOT_VISUAL]
        corners = thing.find("bndbox")
        if corners is None:
            is_scene = (thing.findtext("scene") or "").strip() == "1"
            found.without.update(dict.fromkeys(chains, "is a scene without a box" if is_scene else "has no box"))
            continue
        box: Box = (math.nan,) * 4
        try:
            box = _box(corners, path)
        except EntryFault as error:
            found.spoilt.update(dict.fromkeys(chains, error))
        for chain in chains:
            found.boxes.setdefault(chain, []).append(box)
    return found


def _box(corners: Any, path: Path) -> Box:
    left, top, right, bottom = (_whole(corners, key, path) for key in ("xmin", "ymin", "xmax", "ymax"))
    if right < left or bottom < top:
        told = f"bndbox {left} {top} {right} {bottom}: its maximum lies before its minimum"
        raise EntryFault("box", f"{path}: {told}")
    return (float(left - 1), float(top - 1), float(right - left + 1), float(bottom - top + 1))


def _whole(parent: Any, key: str, path: Path) -> int:
    found = (parent.findtext(key) or "").strip()
    if not re.fullmatch(r"-?[0-9]{1,6}", found):
        cause = "box" if parent.tag == "bndbox" else "size"
        told = f"element {key!r} of {parent.tag!r} is {found[:40]!r}, expected a whole number"
        raise EntryFault(cause, f"{path}: {told}")
    return int(found)
