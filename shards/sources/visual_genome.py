"""Visual Genome (Krishna et al. 2017) in the layout of its own downloads, version 1.0, 1.2 or 1.4.

The root holds ``image_data.json`` and at least one of

- ``region_descriptions.json``: phrases with a box each; a region with one expression,
- ``objects.json``: named boxes; a region with its name as category,
- ``attributes.json``: named boxes with attributes, by ``object_id`` and ``names`` (1.2, 1.4) or ``object_names`` (1.0),
- ``question_answers.json``: questions with one answer each,

and the images in ``VG_100K/``, ``VG_100K_2/``, ``images/`` or the root itself, or in ``--images``. The partition names
the parts that are read, of ``phrases``, ``objects``, ``attributes`` and ``questions``, as in ``phrases+questions``;
without it they are those whose files are there.

**Objects.** Entries of objects and attributes are one region where their object id is the same, or their box and names
are; its attributes are the union. Each entry is an expression, its attributes before the name ("green clock"), and an
object without any attribute is spoken of by its name. An expression is kept only if no other object of the image
with that name has all those attributes too: a phrase that fits two boxes is no target, and the region then stays
without it. **Answers** lose their final full stop and keep their case, which is the task's to change.
Phrases, questions and answers of blanks only, and annotations of images that ``image_data.json`` does not list
(versions differ by some), are lost. So are, by the rules above, expressions that fit two objects ("ambiguous") and
entries that speak of an object that another one does ("merged"): the ledger counts each entry of objects.json and
attributes.json as a region with a box and an expression. There are no official splits: all is "train".
``coco_id`` tells which images COCO, and so RefCOCO's test splits, has too, ``flickr_id`` which Flickr30k may have.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.pictures import named
from laconvnet.shards.format.raw import Account, Fault, RawSample
from laconvnet.shards.format.record import Expression, Question, Region
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, sample
from laconvnet.shards.sources.faults import EntryFault, entry, lost, sort_out
from laconvnet.shards.sources.listed import Listed
from laconvnet.shards.sources.visual_genome_objects import OF_REGION, SPLIT, Place, box_of, object_regions, plain_object

# part: its file
_PARTS = {
    "phrases": "region_descriptions.json",
    "objects": "objects.json",
    "attributes": "attributes.json",
    "questions": "question_answers.json",
}
# file: the key of an image's list in it
_ANNOTATIONS = {
    "region_descriptions.json": "regions",
    "objects.json": "objects",
    "attributes.json": "attributes",
    "question_answers.json": "qas",
}
_OF_QUESTION = {"question": 1}
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
    flickr_id: int | None
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
        self,
        root: Path,
        *,
        images: Path | None,
        splits: Collection[str] | None,
        partition: str | None,
        with_images: bool = True,
    ) -> Samples:
        """See `shards.sources.base.Source.samples`. Images come in the order of their ids."""
        wanted = _files(partition)
        choose_splits(splits, {SPLIT}, root)
        reading.need_folder(root, "expected the unpacked downloads of Visual Genome there; change --root")
        data = reading.need_file(root / "image_data.json", "expected Visual Genome's image table there; change --root")
        present = [file for file in wanted or _ANNOTATIONS if (root / file).is_file()]
        if missing := [file for file in wanted or () if file not in present]:
            raise InputError(f"{root / missing[0]}: no such file; expected it for --partition {partition}")
        if not present:
            raise InputError(f"{root}: no annotations; expected one of {', '.join(_ANNOTATIONS)} there; change --root")
        account = Account()
        listed = _load_images(data, _ImageFolders(images or root, with_images), account)
        without_image: dict[int, Counter[str]] = defaultdict(Counter)
        stores = {file: _load_annotations(root / file, listed, without_image, account) for file in present}
        annotated = sorted(set().union(*stores.values()))
        account.count(SPLIT, picture=len(annotated) + len(without_image))
        for image_id, entries in without_image.items():
            what = f"{root}: annotations of image {image_id}, which {data.name} does not list"
            error = listed.unusable.get(image_id) or EntryFault("no picture", what)
            takes, names = {"picture": 1, **entries}, (f"{self.name}-{image_id}", named(self.name, f"{image_id}.jpg"))
            account.faults.append(lost(error, "picture", image_id, SPLIT, data, takes, None, *names))

        def records() -> Iterator[RawSample]:
            for image_id in annotated:
                annotations = {file: store.get(image_id) for file, store in stores.items()}
                faults: list[Fault] = []
                regions, questions = _annotations(root, image_id, annotations, faults)
                image = listed.usable[image_id]
                size, name, told = (image.width, image.height), image.path.name, tuple(faults)
                more = image.coco_id, told, image.flickr_id
                yield sample(self, image.path, str(image_id), name, size, regions, questions, *more)

        return Samples(records(), len(annotated), account)


def _files(partition: str | None) -> list[str] | None:
    """The files of the parts that a partition names, None for those that are there; raises InputError."""
    if partition is None:
        return None
    parts = partition.split("+")
    if not set(parts) <= _PARTS.keys() or len(set(parts)) < len(parts):
        raise InputError(f"--partition {partition}: expected parts of {', '.join(_PARTS)}, each once, joined by +")
    return [file for part, file in _PARTS.items() if part in parts]


class _ImageFolders:
    """Finds the images in their folders, from one listing of each instead of a question to the disk per image."""

    def __init__(self, top: Path, with_images: bool) -> None:
        self._top = top
        self._names = _listed(top) if with_images else {}

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


def _listed(top: Path) -> dict[Path, set[str]]:
    """The names in each folder of images; raises InputError where there is no image."""
    reading.need_folder(top, "expected the images of Visual Genome there; name their folder with --images")
    folders = [top / name for name in _FOLDERS if (top / name).is_dir()]
    found = {folder: {entry.name for entry in os.scandir(folder)} for folder in folders}
    if not any(name.lower().endswith((".jpg", ".png")) for names in found.values() for name in names):
        looked = ", ".join(str(folder) for folder in folders)
        raise InputError(f"{top}: no images in {looked}; name their folder with --images")
    return found


def _load_images(path: Path, folders: _ImageFolders, account: Account) -> Listed[_Image]:
    listed = Listed[_Image]()
    for given in reading.read_items(path):
        with entry(account.faults, "picture", given.get("image_id", given.get("id")), "", path, {}):
            image_id = reading.field(given, f"{path}: image", int, "image_id", "id")
            where = f"{path}: image {image_id}"
            with listed.reading(image_id):
                listed.add(image_id, _image(given, image_id, folders, where), where)
    return listed


def _image(given: dict[str, Any], image_id: int, folders: _ImageFolders, where: str) -> _Image:
    url = given.get("url")
    return _Image(
        reading.side(given, where, "width"),
        reading.side(given, where, "height"),
        _other_id(given, where, "coco_id"),
        _other_id(given, where, "flickr_id"),
        folders.find(image_id, None if url is None else reading.field(given, where, str, "url"), where),
    )


def _other_id(given: dict[str, Any], where: str, key: str) -> int | None:
    """The id that the image has in another collection."""
    return None if given.get(key) is None else reading.field(given, where, int, key)


def _load_annotations(
    path: Path, listed: Listed[_Image], without_image: dict[int, Counter[str]], account: Account
) -> reading.CompressedStore:
    """The annotations of a file by image; counts those of images that are not listed.

    Raises InputError where no image has a list of them: then it is another file.
    """
    store = reading.CompressedStore()
    faults: list[Fault] = []
    has_lists = False
    kinds = _OF_QUESTION if path.name == "question_answers.json" else OF_REGION
    for given in reading.read_items(path):
        own = given.get(_ANNOTATIONS[path.name])
        takes = {kind: len(own) if isinstance(own, list) else 1 for kind in kinds}
        account.count(SPLIT, **takes)
        id = given.get("image_id", given.get("id"))
        with entry(faults, next(iter(kinds)), f"all of image {id}", SPLIT, path, takes):
            image_id = reading.field(given, f"{path}: entry", int, "image_id", "id")
            annotations: list[Any] = reading.field(given, f"{path}: image {image_id}", list, _ANNOTATIONS[path.name])
            has_lists = True
            if not annotations:
                continue
            if image_id not in listed.usable:
                without_image[image_id].update(takes)
            else:
                store.add(image_id, [_kept(item) for item in annotations])
    if not has_lists:
        raise InputError(f"{faults[0].reason}; nor has any other entry of the file: get it again")
    account.faults += faults
    return store


def _kept(item: Any) -> Any:
    return {key: item[key] for key in _KEPT & item.keys()} if isinstance(item, dict) else item


def _annotations(
    root: Path, image_id: int, annotations: dict[str, list[Any]], faults: list[Fault]
) -> tuple[tuple[Region, ...], tuple[Question, ...]]:
    place = Place(root, image_id)
    regions = [
        *_each(annotations, "region_descriptions.json", place, _phrase_region, OF_REGION, faults),
        *object_regions(annotations, place, faults),
    ]
    questions = _each(annotations, "question_answers.json", place, _question, _OF_QUESTION, faults)
    return tuple(regions), tuple(questions)


_Made = TypeVar("_Made", Region, Question)


def _each(
    annotations: dict[str, list[Any]],
    file: str,
    place: Place,
    make: Callable[[dict[str, Any], str], _Made],
    takes: dict[str, int],
    faults: list[Fault],
) -> Iterator[_Made]:
    """What is made of each entry; of entries under one id the first where all are alike, none where they differ."""
    path, where = place.root / file, place.told(file)
    kind = next(iter(takes))
    by_id: dict[str, list[_Made]] = defaultdict(list)
    for given in annotations.get(file, []):
        with entry(faults, kind, _id(given), SPLIT, path, takes):
            made = make(plain_object(given, where), where)
            by_id[made.id].append(made)
    for id, twins in by_id.items():
        kept, gone, how = sort_out(twins, lambda twin: twin, str)
        yield from kept
        for twin in gone:
            error = EntryFault("duplicate id", f"{where}: {kind} {id} occurs twice, {how}")
            faults.append(lost(error, kind, twin.id, SPLIT, path, takes))


def _id(given: Any) -> object:
    known = given if isinstance(given, dict) else {}
    return next((known[key] for key in ("region_id", "qa_id", "object_id", "id") if key in known), "unknown")


def _phrase_region(given: dict[str, Any], where: str) -> Region:
    id = str(reading.field(given, where, int, "region_id", "id"))
    where = f"{where}: region {id}"
    words = reading.phrase(given, where, "phrase")
    return Region(id, SPLIT, (box_of(given, where, "width", "height"),), (Expression(id, words),))


def _question(given: dict[str, Any], where: str) -> Question:
    id = str(reading.field(given, where, int, "qa_id", "id"))
    where = f"{where}: question {id}"
    answer = reading.text(reading.field(given, where, str, "answer"), where).removesuffix(".").rstrip()
    if not answer:
        raise EntryFault("blank", f"{where}: key 'answer' is empty")
    return Question(id, SPLIT, reading.phrase(given, where, "question"), answer)
