"""Visual Genome (Krishna et al. 2017) in the layout of its own downloads, version 1.0, 1.2 or 1.4.

The root holds ``image_data.json`` and at least one of

- ``region_descriptions.json``: phrases with a box each; a region with one expression,
- ``objects.json``: named boxes; a region with its name as category,
- ``attributes.json``: named boxes with attributes, by ``object_id`` and ``names`` (1.2, 1.4) or ``object_names`` (1.0),
- ``question_answers.json``: questions with one answer each,

and the images in ``VG_100K/``, ``VG_100K_2/``, ``images/`` or the root itself, or in ``--images``.

**Objects.** Entries of objects and attributes are one region where their object id is the same, or their box and names
are; its attributes are the union. Each entry is an expression, its attributes before the name ("green clock"), and an
object without any attribute is spoken of by its name. An expression is kept only if no other object of the image
with that name has all those attributes too: a phrase that fits two boxes is no target, and the region then stays
without it. **Answers** lose their final full stop and keep their case, which is the task's to change.
Phrases, questions and answers of blanks only, and annotations of images that ``image_data.json`` does not list
(versions differ by some), are skipped and counted in a warning. There are no official splits: all is "train".
``coco_id`` tells which images COCO, and so RefCOCO's test splits, has too.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Box, Expression, Question, Region
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, no_partition, sample

_LOG = logging.getLogger(__name__)
_SPLIT = "train"
# file: the key of an image's list in it
_ANNOTATIONS = {
    "region_descriptions.json": "regions",
    "objects.json": "objects",
    "attributes.json": "attributes",
    "question_answers.json": "qas",
}
_IDS = ("id", "region_id", "object_id", "qa_id")
_BOXES = ("x", "y", "w", "h", "width", "height")
_WORDS = ("phrase", "names", "object_names", "attributes", "question", "answer")
_KEPT = frozenset((*_IDS, *_BOXES, *_WORDS))
_FOLDERS = ("VG_100K", "VG_100K_2", "images", ".")


@dataclass(frozen=True, slots=True)
class _Image:
    width: int
    height: int
    coco_id: int | None
    path: Path


class VisualGenome:
    """Region phrases, objects, attributes and questions of 108,077 images."""

    name = "visual_genome"
    title = "Visual Genome: 5.4 M region phrases, objects, attributes and 1.7 M questions on 108,077 images"
    licence = "CC BY 4.0; pictures: Flickr terms of use"
    files = (
        "image_data.json: image sizes, addresses and COCO ids",
        "region_descriptions.json, objects.json, attributes.json, question_answers.json: at least one of them",
        "VG_100K/*.jpg, VG_100K_2/*.jpg: the images (also images/, the root itself, or a folder as --images)",
    )

    def samples(
        self, root: Path, *, images: Path | None, splits: Collection[str] | None, partition: str | None
    ) -> Samples:
        """See `shards.sources.base.Source.samples`. Images come in the order of their ids."""
        no_partition(partition, self.name)
        choose_splits(splits, {_SPLIT}, root)
        reading.need_folder(root, "expected the unpacked downloads of Visual Genome there; change --root")
        data = reading.need_file(root / "image_data.json", "expected Visual Genome's image table there; change --root")
        present = [file for file in _ANNOTATIONS if (root / file).is_file()]
        if not present:
            raise InputError(f"{root}: no annotations; expected one of {', '.join(_ANNOTATIONS)} there; change --root")
        listed_images = _load_images(data, _ImageFolders(images or root))
        skipped: Counter[str] = Counter()
        stores = {file: _load_annotations(root / file, listed_images, skipped) for file in present}
        annotated = sorted(set().union(*stores.values()))

        def records() -> Iterator[RawSample]:
            for image_id in annotated:
                annotations = {file: store.get(image_id) for file, store in stores.items()}
                regions, questions = _annotations(root, image_id, annotations, skipped)
                image = listed_images[image_id]
                if regions or questions:
                    size, name = (image.width, image.height), image.path.name
                    yield sample(self, image.path, str(image_id), name, size, regions, questions, image.coco_id)
            for what, count in sorted(skipped.items()):
                _LOG.warning("%s: %d %s are left out", root, count, what)

        return Samples(records(), len(annotated))


class _ImageFolders:
    """Finds the images in their folders, from one listing of each instead of a question to the disk per image."""

    def __init__(self, top: Path) -> None:
        reading.need_folder(top, "expected the images of Visual Genome there; name their folder with --images")
        folders = [top / name for name in _FOLDERS if (top / name).is_dir()]
        self._names = {folder: {entry.name for entry in os.scandir(folder)} for folder in folders}
        if not any(name.lower().endswith((".jpg", ".png")) for names in self._names.values() for name in names):
            looked = ", ".join(str(folder) for folder in folders)
            raise InputError(f"{top}: no images in {looked}; name their folder with --images")
        self._top = top

    def find(self, image_id: int, url: str | None, where: str) -> Path:
        """The image at the address's folder and name, else of that name or ``<id>.jpg`` in any folder."""
        expected = self._top / f"{image_id}.jpg"
        if url is not None:
            # The address ends in the folder and the name, .../VG_100K_2/1.jpg.
            address = reading.inside(self._top, url.partition("://")[2], f"{where}: key 'url'")
            expected = self._top / address.parent.name / address.name
        if expected.name in self._names.get(expected.parent, ()):
            return expected
        for name in (expected.name, f"{image_id}.jpg"):
            for folder, names in self._names.items():
                if name in names:
                    return folder / name
        return expected


def _load_images(path: Path, folders: _ImageFolders) -> dict[int, _Image]:
    listed_images: dict[int, _Image] = {}
    for entry in reading.read_items(path):
        image_id = reading.field(entry, f"{path}: image", int, "image_id", "id")
        where = f"{path}: image {image_id}"
        coco_id = entry.get("coco_id")
        url = entry.get("url")
        listed_images[image_id] = _Image(
            reading.side(entry, where, "width"),
            reading.side(entry, where, "height"),
            None if coco_id is None else reading.field(entry, where, int, "coco_id"),
            folders.find(image_id, None if url is None else reading.field(entry, where, str, "url"), where),
        )
    return listed_images


def _load_annotations(path: Path, listed_images: Collection[int], skipped: Counter[str]) -> reading.CompressedStore:
    store = reading.CompressedStore(path)
    for entry in reading.read_items(path):
        image_id = reading.field(entry, f"{path}: entry", int, "image_id", "id")
        annotations = reading.objects(entry, f"{path}: image {image_id}", _ANNOTATIONS[path.name])
        if image_id not in listed_images:
            skipped[f"images of {path.name} that image_data.json does not list"] += 1
        elif annotations:
            store.add(image_id, [{key: item[key] for key in _KEPT & item.keys()} for item in annotations])
    return store


def _annotations(
    root: Path, image_id: int, annotations: dict[str, list[dict[str, Any]]], skipped: Counter[str]
) -> tuple[tuple[Region, ...], tuple[Question, ...]]:
    def where(file: str) -> str:
        return f"{root / file}: image {image_id}"

    regions = [
        *_each(annotations, "region_descriptions.json", where, _phrase_region, skipped, "phrases without words"),
        *_object_regions(annotations.get("objects.json", []), annotations.get("attributes.json", []), where),
    ]
    questions = _each(
        annotations, "question_answers.json", where, _question, skipped, "questions without words or answer"
    )
    return tuple(regions), tuple(questions)


def _each(
    annotations: dict[str, list[dict[str, Any]]],
    file: str,
    where: Callable[[str], str],
    make: Callable[[dict[str, Any], str], Any],
    skipped: Counter[str],
    blank: str,
) -> Iterator[Any]:
    for entry in annotations.get(file, []):
        made = make(entry, where(file))
        if made is None:
            skipped[blank] += 1
        else:
            yield made


def _phrase_region(entry: dict[str, Any], where: str) -> Region | None:
    id = str(reading.field(entry, where, int, "region_id", "id"))
    where = f"{where}: region {id}"
    phrase = reading.text(reading.field(entry, where, str, "phrase"), where)
    if not phrase:
        return None
    return Region(id, _SPLIT, (_box(entry, where, "width", "height"),), (Expression(id, phrase),))


def _question(entry: dict[str, Any], where: str) -> Question | None:
    id = str(reading.field(entry, where, int, "qa_id", "id"))
    where = f"{where}: question {id}"
    text = reading.text(reading.field(entry, where, str, "question"), where)
    answer = reading.text(reading.field(entry, where, str, "answer"), where).removesuffix(".").rstrip()
    return Question(id, _SPLIT, text, answer) if text and answer else None


def _box(entry: dict[str, Any], where: str, width: str, height: str) -> Box:
    return reading.box([entry.get(key) for key in ("x", "y", width, height)], where)


# Each object of an image is compared with its namesakes; an original image has some hundred entries at most.
_MAX_OBJECTS = 2000


@dataclass(slots=True)
class _Object:
    id: str
    box: Box
    names: tuple[str, ...]
    # The attributes of each entry; a dict because it keeps the order and drops what comes twice.
    entries: dict[tuple[str, ...], None] = field(default_factory=dict)

    @property
    def attributes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(attribute for entry in self.entries for attribute in entry))


_Namesake = tuple[_Object, frozenset[str]]  # and its attributes in small letters


def _object_regions(
    objects: list[dict[str, Any]], attributes: list[dict[str, Any]], where: Callable[[str], str]
) -> Iterator[Region]:
    by_id: dict[int, _Object] = {}
    by_key: dict[tuple[Box, tuple[str, ...]], _Object] = {}
    for file, entries in (("objects.json", objects), ("attributes.json", attributes)):
        if len(entries) > _MAX_OBJECTS:
            raise InputError(f"{where(file)}: {len(entries)} entries, expected at most {_MAX_OBJECTS}")
        for entry in entries:
            # In version 1.0 an entry of attributes.json has an id of its own, not the object's.
            own_id = file == "attributes.json" and "object_id" not in entry
            number = reading.field(entry, where(file), int, "object_id", "id")
            context = f"{where(file)}: object {number}"
            names = _words(reading.field(entry, context, list, "names", "object_names"), context)
            key = (_box(entry, context, "w", "h"), names)
            found = (None if own_id else by_id.get(number)) or by_key.get(key)
            if found is None:
                found = _Object(f"{'attribute' if own_id else 'object'}-{number}", *key)
            by_key.setdefault(key, found)
            if not own_id:
                by_id[number] = found
            raw_attributes = entry.get("attributes")
            if raw_attributes is not None:
                found.entries[_words(reading.field(entry, context, list, "attributes"), context)] = None
    merged = list({thing.id: thing for thing in by_key.values()}.values())
    namesakes: dict[str, list[_Namesake]] = defaultdict(list)
    for thing in merged:
        attributes_of = frozenset(attribute.casefold() for attribute in thing.attributes)
        for name in {name.casefold() for name in thing.names}:
            namesakes[name].append((thing, attributes_of))
    for thing in merged:
        yield Region(
            id=thing.id,
            split=_SPLIT,
            boxes=(thing.box,),
            expressions=tuple(
                Expression(f"{thing.id}-{index}", text) for index, text in enumerate(_phrases(thing, namesakes))
            ),
            category=thing.names[0] if thing.names else None,
            attributes=thing.attributes,
        )


def _phrases(thing: _Object, namesakes: dict[str, list[_Namesake]]) -> Iterator[str]:
    """Phrases that name this object and no other of the image."""
    if not thing.names:
        return
    name = thing.names[0]
    for entry in [entry for entry in thing.entries if entry] or [()]:
        wanted = {attribute.casefold() for attribute in entry}
        if not any(
            other is not thing and wanted <= attributes_of for other, attributes_of in namesakes[name.casefold()]
        ):
            yield " ".join((*entry, name))


def _words(values: list[Any], where: str) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str):
            raise InputError(f"{where}: name or attribute {value!r}, expected a string")
    return tuple(dict.fromkeys(word for word in (reading.text(value, where) for value in values) if word))
