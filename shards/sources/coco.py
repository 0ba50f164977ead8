"""Annotations in COCO's format (cocodataset.org/#format-data): captions, and boxes and masks with their categories.

``--root`` is one JSON file or a folder of them: its ``instances*.json`` and ``captions*.json``, or all ``*.json`` where
there are none of these. A file's ``images`` have ``id``, ``file_name``, ``width`` and ``height``, its ``annotations``
``id`` and ``image_id``. What an annotation is follows from its keys:

* ``caption`` is an expression, else the name of its ``category_id`` is, in the file's ``categories``;
* ``bbox`` (x, y, w, h) and ``segmentation`` (polygons or run lengths; none where it is empty) are box and mask of the
  region. Without a box that around the mask is taken, and a caption without either is of the whole picture;
* one with ``iscrowd`` is left out, by the rule "crowd".

The split is train, val, test or dev, whichever stands in the file's name ("instances_val2017"), else that of the
folder of the file, where that is named for one ("valid/_annotations.coco.json", as Roboflow writes), else train. The
images lie in ``--images``, or below it in a folder of that part of the name ("val2017") where there is one. A picture
of several files becomes one sample. Its COCO id is kept where its file name is COCO's own for that id.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import Account, Fault, RawSample
from laconvnet.shards.format.record import Expression, Region
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, no_partition, picture_id, sample
from laconvnet.shards.sources.faults import EntryFault, entry
from laconvnet.shards.sources.listed import Listed
from laconvnet.shards.sources.masks import box_of, to_rle

_PART = re.compile(r"(train|val|test|dev)[0-9]*", re.IGNORECASE)
_FOLDER = re.compile(r"(train|val|test|dev)(id|idation|ing)?[0-9]*", re.IGNORECASE)
_COCO_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})\.jpg")
_KEYS = ("id", "category_id", "bbox", "segmentation", "iscrowd", "caption")


@dataclass(frozen=True, slots=True)
class _Image:
    """``name`` is the path below the folder of the images."""

    name: str
    width: int
    height: int
    coco_id: int | None


@dataclass(slots=True)
class _File:
    """One file: its split, its images and categories by id, and its annotations whose id is another's too."""

    path: Path
    split: str
    images: Listed[_Image] = field(default_factory=Listed)
    categories: dict[int, str] = field(default_factory=dict)
    alike: set[int] = field(default_factory=set)  # by their number in the file
    different: set[int | str] = field(default_factory=set)  # by their id


class Coco:
    """One's own data, or COCO's, in COCO's format."""

    name = "coco"
    title = "annotations in COCO's format: captions, and categories with boxes and masks"
    licence = "as the files' owner says; COCO's own: annotations CC BY 4.0, pictures Flickr terms of use"
    files = (
        "instances*.json, captions*.json, or any *.json, or one file: images, annotations, categories; train, val, "
        "test or dev in the name, else that of the folder, is the split",
        "<file_name>: the images, in the folder --images or below it in train2017/, val2017/, ... as the file is named",
        "caption: an expression, of the picture or of its bbox; else the category's name is, of bbox and segmentation",
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
        """See `shards.sources.base.Source.samples`. Images come in the order of their names."""
        no_partition(partition, self.name)
        found = {path: _part(path) for path in _paths(root)}
        chosen = choose_splits(splits, {split for split, _ in found.values()}, root)
        folder = root if root.is_dir() else root.parent
        images_at = reading.image_folder(images or folder, "expected the images there; change --images", with_images)
        account, store = Account(), reading.CompressedStore()
        files: list[_File] = []
        for path, (split, part) in found.items():
            if split in chosen:
                below = part if not with_images or (images_at / part).is_dir() else ""
                file = _File(path, split)
                _load_images(file, below, images_at)
                _load_annotations(file, len(files), store, account)
                files.append(file)
        pictures, wrong = _pictures(files)

        def records() -> Iterator[RawSample]:
            for name in sorted(store):
                image = pictures[name]
                regions, faults = _regions(image, store.get(name), files, wrong.get(name))
                for split in {region.split for region in regions} | {fault.split for fault in faults}:
                    account.count(split, picture=1)
                size, path = (image.width, image.height), reading.inside(images_at, name, str(root))
                given: dict[str, Any] = {"coco_id": image.coco_id, "faults": tuple(faults)}
                yield sample(self, path, picture_id(name), name, size, tuple(regions), **given)

        return Samples(records(), len(store), account)


def _paths(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    reading.need_folder(root, "expected annotations in COCO's format, a JSON file or a folder of them; change --root")
    every = sorted(root.glob("*.json"))
    paths = [path for path in every if path.name.startswith(("instances", "captions"))] or every
    if not paths:
        below = sorted({path.parent.name for path in root.glob("*/*.json")})
        there = f" (there are some in {', '.join(below)}: give one of these folders, or a file)" if below else ""
        raise InputError(f"{root}: no *.json there{there}; expected annotations in COCO's format, change --root")
    return paths


def _part(path: Path) -> tuple[str, str]:
    """The split that a file is of, and the part of its name that tells it; none where its folder does, or nothing."""
    if found := _PART.search(path.stem):
        return found[1].lower(), found[0]
    folder = _FOLDER.fullmatch(path.resolve().parent.name)
    return (folder[1].lower() if folder else "train", "")


def _load_images(file: _File, below: str, images_at: Path) -> None:
    for given in reading.read_items(file.path, "images.item"):
        image_id = given.get("id")
        if type(image_id) is not int:  # the annotations that name it miss it
            continue
        where = f"{file.path}: image {image_id}"
        with file.images.reading(image_id):
            name = reading.field(given, where, str, "file_name")
            reading.inside(images_at, name, where)
            sides = reading.side(given, where, "width"), reading.side(given, where, "height")
            own = _COCO_NAME.fullmatch(Path(name).name)
            coco_id = image_id if own and int(own[1]) == image_id else None
            file.images.add(image_id, _Image(f"{below}/{name}" if below else name, *sides, coco_id), where)


def _load_annotations(file: _File, number: int, store: reading.CompressedStore, account: Account) -> None:
    """Count the annotations of a file, and put them to the store by the names of their images."""
    for given in reading.read_items(file.path, "categories.item", needed=False):
        where = f"{file.path}: category"
        file.categories[reading.field(given, where, int, "id")] = reading.phrase(given, where, "name")
    seen: dict[int | str, int] = {}
    for place, given in enumerate(reading.read_items(file.path, "annotations.item")):
        takes = _takes(given)
        account.count(file.split, **takes)
        id, where = given.get("id"), f"{file.path}: annotation {place}"
        with entry(account.faults, "region", given.get("id", f"annotation {place}"), file.split, file.path, takes):
            image_id = reading.field(given, where, int, "image_id")
            if image_id not in file.images.usable:
                told = f"{where}: key 'image_id' is {image_id}, which 'images' does not list"
                raise file.images.unusable.get(image_id) or EntryFault("no picture", told)
            store.add(file.images.usable[image_id].name, [[number, place, {key: given.get(key) for key in _KEYS}]])
        if isinstance(id, int | str):
            digest = xxhash.xxh3_64_intdigest(repr(given).encode("utf-8", "backslashreplace"))
            if id not in seen:
                seen[id] = digest
            elif seen[id] == digest:
                file.alike.add(place)
            else:
                file.different.add(id)


def _takes(annotation: dict[str, Any]) -> dict[str, int]:
    """The entries that an annotation is."""
    return {"region": 1, "expression": 1, "box": 1, "mask": int(bool(annotation.get("segmentation")))}


def _pictures(files: list[_File]) -> tuple[dict[str, _Image], dict[str, EntryFault]]:
    """The images of all files by name, and those that two files describe otherwise."""
    pictures: dict[str, _Image] = {}
    wrong: dict[str, EntryFault] = {}
    for file in files:
        for image in file.images.usable.values():
            other = pictures.setdefault(image.name, image)
            if (other.width, other.height) != (image.width, image.height):
                sizes = f"{other.width}x{other.height} and {image.width}x{image.height}"
                wrong[image.name] = EntryFault("size", f"{file.path}: {image.name} is of two sizes, {sizes}")
    return pictures, wrong


def _regions(
    image: _Image, annotations: list[Any], files: list[_File], wrong: EntryFault | None
) -> tuple[list[Region], list[Fault]]:
    regions: list[Region] = []
    faults: list[Fault] = []
    for number, place, given in annotations:
        file, changes = files[number], list[Fault]()
        id = given["id"] if given["id"] is not None else f"annotation {place}"
        with entry(faults, "region", id, file.split, file.path, _takes(given), str(id)):
            if wrong is not None:
                raise wrong
            regions.append(_region(given, place, image, file, changes))
            faults += changes
    return regions, faults


def _region(given: dict[str, Any], place: int, image: _Image, file: _File, changes: list[Fault]) -> Region:
    id, where = given["id"], f"{file.path}: annotation {place}"
    if isinstance(id, bool) or not isinstance(id, int | str):
        raise EntryFault("field", f"{where}: key 'id' is {reprlib.repr(id)}, expected a number or a name")
    where = f"{file.path}: annotation {id}"
    if id in file.different or place in file.alike:
        how = "with other contents" if id in file.different else "alike"
        raise EntryFault("duplicate id", f"{where} occurs twice, {how}")
    if given["iscrowd"]:
        raise EntryFault("crowd", f"{where}: a crowd, which is no region")
    category = None if given["category_id"] is None else _category(given, where, file)
    text = category if given["caption"] is None else reading.phrase(given, where, "caption")
    if text is None:
        raise EntryFault("field", f"{where}: has neither caption nor category_id")
    dropped: list[str] = []
    mask = to_rle(given["segmentation"], image.height, image.width, where, dropped) if given["segmentation"] else None
    if dropped:
        told = "; ".join(dropped), str(file.path), (("mask", 1),), str(id)
        changes.append(Fault("mask", str(id), file.split, "polygon", *told, changed=True))
    whole = given["bbox"] is None and mask is None
    if whole and given["caption"] is None:
        raise EntryFault("field", f"{where}: has neither caption nor bbox nor segmentation")
    if given["bbox"] is not None:
        box = reading.box(reading.field(given, where, list, "bbox"), where)
    else:
        box = (0.0, 0.0, float(image.width), float(image.height)) if mask is None else box_of(mask, where)
    name = f"caption-{id}" if whole else str(id)
    return Region(name, file.split, (box,), (Expression(name, text),), mask, category)


def _category(given: dict[str, Any], where: str, file: _File) -> str:
    category = reading.field(given, where, int, "category_id")
    if category not in file.categories:
        raise EntryFault("no category", f"{where}: key 'category_id' is {category}, which 'categories' does not list")
    return file.categories[category]
