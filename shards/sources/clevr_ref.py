"""CLEVR-Ref+ (Liu et al. 2019) in the layout of the clevr_ref+_1.0 download and of its authors' generator.

The root holds ``refexps/clevr_ref+_<split>_refexps.json``, ``scenes/clevr_ref+_<split>_scenes.json`` and
``images/<split>/*.png``. The expressions of the test split are not published.

An expression becomes a region with the id ``<split>-<position in the file>``, counted from 0: ``refexp_index`` starts
anew with each run of the generator. What it refers to is the output of the last function of its program: one object or
several, counted from 0. The scene has their boxes (``obj_bbox``: x, y, w, h of the whole object, with what others hide
of it) and masks (``obj_mask``: what is seen of it) under keys that count from 1. A region has the boxes of all its
objects and the union of their masks; its category is their shape, where they share one. Images without an expression
are not built. The runs of a mask add up to the pixels of its image, whose size is the image's own.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from laconvnet.images import MAX_PIXELS
from laconvnet.shards.format.pictures import named
from laconvnet.shards.format.raw import Account, Fault, RawSample
from laconvnet.shards.format.record import Expression, Region, Rle, key
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, no_partition, sample
from laconvnet.shards.sources.clevr import chosen_files, image_folders, last_function
from laconvnet.shards.sources.faults import EntryFault, entry, lost
from laconvnet.shards.sources.masks import union
from laconvnet.shards.sources.questions import QuestionStore

_REFEXPS = "refexps/clevr_ref+_<split>_refexps.json"
_KINDS = ("region", "expression", "mask")  # that each expression is, beside its boxes
_SCENES = "scenes/clevr_ref+_<split>_scenes.json"
# The size of CLEVR's own images, for one that cannot be opened, which the builder will refuse.
_CLEVR_SIZE = 480, 320
_RUNS = re.compile(r"[0-9]{1,6}(?:,[0-9]{1,6})*")


@dataclass(frozen=True, slots=True)
class _Split:
    """The files of a split, its folder of images, and its expressions by image."""

    name: str
    refexps: Path
    scenes: Path
    image_folder: Path
    expressions: QuestionStore


class ClevrRef:
    """Expressions for one or several objects of a rendered scene."""

    name = "clevr_ref+"
    title = "CLEVR-Ref+: ten expressions an image, for one or several objects each, on the images of CLEVR"
    licence = "CC BY 4.0"
    files = (
        f"{_REFEXPS}: expressions and programs",
        f"{_SCENES}: boxes and masks",
        "images/<split>/*.png: the images (or the folder that holds <split>/ as --images)",
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
        """See `shards.sources.base.Source.samples`. Images come in the order of split and scene.

        The scenes, gigabytes of masks, are read while the samples are taken.
        """
        no_partition(partition, self.name)
        paths = chosen_files(root, _REFEXPS, splits)
        scenes = {
            split: reading.need_file(
                root / _SCENES.replace("<split>", split),
                f"expected the scenes beside {path.parent.name}; change --root",
            )
            for split, path in paths.items()
        }
        folders = image_folders(images or root / "images", paths, with_images)
        account = Account()
        chosen = [
            _Split(split, path, scenes[split], folders[split], self._expressions(path, split, folders[split], account))
            for split, path in paths.items()
        ]

        def records() -> Iterator[RawSample]:
            for split in chosen:
                yield from self._of_split(split, account, with_images)

        return Samples(records(), sum(len(split.expressions) for split in chosen), account)

    def _of_split(self, split: _Split, account: Account, with_images: bool) -> Iterator[RawSample]:
        """The samples of a split, in the order of its scenes; without images nobody knows their size."""
        sizes = _Sizes(with_images)
        without_scene = set(split.expressions)
        for scene in reading.read_items(split.scenes, "scenes.item"):
            given = scene.get("image_filename")
            with entry(account.faults, "picture", given, split.name, split.scenes, {}):
                file_name = reading.field(scene, f"{split.scenes}: scene", str, "image_filename")
                expressions = split.expressions.get(file_name)
                if not expressions:
                    continue
                if file_name not in without_scene:
                    raise EntryFault(
                        "duplicate id", f"{split.scenes}: a second scene of {file_name}; the first is used"
                    )
                without_scene.discard(file_name)
                path = reading.inside(split.image_folder, file_name, str(split.scenes))
                read = _Scene(scene, f"{split.scenes}: scene of {file_name}", path, sizes)
                regions, faults = _regions(read, expressions, split)
                size = read.size if with_images else (0, 0)
                yield sample(self, path, Path(file_name).stem, file_name, size, regions, faults=faults)
        for file_name in sorted(without_scene):
            expressions = split.expressions.get(file_name)
            told = f"{split.scenes}: no scene of {file_name}, of which {split.refexps.name} speaks; get the file again"
            takes = sum((Counter(_takes(numbers)) for *_, numbers in expressions), Counter({"picture": 1}))
            error = EntryFault("no scene", told)
            names = key(self.name, Path(file_name).stem), named(self.name, file_name)
            account.faults.append(lost(error, "picture", file_name, split.name, split.scenes, takes, None, *names))

    def _expressions(self, path: Path, split: str, image_folder: Path, account: Account) -> QuestionStore:
        """Id, text and objects of every expression, by the file name of its image. Those of one are together."""
        store = QuestionStore(
            account,
            lambda name: key(self.name, Path(str(name)).stem),
            lambda name: named(self.name, str(name)),
            _KINDS,
        )
        for position, refexp in enumerate(reading.read_items(path, "refexps.item")):
            id = f"{split}-{position}"
            where = f"{path}: expression {id}"
            with store.reading(path, split, id) as asked:
                file_name = reading.field(refexp, where, str, "image_filename")
                reading.inside(image_folder, file_name, where)
                asked.image = file_name
                text = reading.phrase(refexp, where, "refexp")
                numbers = _objects(refexp, where)
                store.keep(asked, split, id, text, numbers)
                account.count(split, box=len(numbers))
        store.finish(path, split)
        return store


def _takes(numbers: list[int]) -> dict[str, int]:
    """What is lost with an expression for these objects."""
    return {**dict.fromkeys(_KINDS, 1), "box": len(numbers)}


def _objects(refexp: dict[str, Any], where: str) -> list[int]:
    """The objects that an expression is for, each once."""
    last = last_function(refexp, where)
    objects: list[Any] = reading.field(last, f"{where}: the program's last function", list, "_output")
    if not objects or any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in objects):
        told = f"the program's last '_output' is {reprlib.repr(objects)}, expected the numbers of objects"
        raise EntryFault("field", f"{where}: {told}")
    return list(dict.fromkeys(objects))


class _Sizes:
    """The size of an image whose masks have so many pixels: the scenes do not tell it, the image does.

    The images of a set are of one size, so that one is opened only where its pixels are not those of the last opened;
    the builder compares with every image that it decodes.
    """

    def __init__(self, with_images: bool) -> None:
        self._with_images = with_images
        self._last: tuple[int, int] | None = None

    def of(self, path: Path, pixels: int) -> tuple[int, int]:
        """Width and height; without images a row of as many pixels."""
        if not self._with_images:
            return (pixels, 1) if pixels <= MAX_PIXELS else _CLEVR_SIZE
        if self._last is None or math.prod(self._last) != pixels:
            size = reading.image_size(path)
            if size is None:
                return _CLEVR_SIZE
            self._last = size
        return self._last


class _Scene:
    """A scene: what it says of an object, whose masks are decoded once, whoever speaks of it."""

    def __init__(self, scene: dict[str, Any], where: str, path: Path, sizes: _Sizes) -> None:
        self._scene, self._where = scene, where
        self._masks: dict[int, Rle] = {}
        self.size = sizes.of(path, self._pixels())

    def region(self, id: str, text: str, numbers: list[int], split: str) -> Region:
        """The region of an expression; raises EntryFault where the scene lacks something of its objects."""
        objects = reading.objects(self._scene, self._where, "objects")
        boxes: dict[str, Any] = reading.field(self._scene, self._where, dict, "obj_bbox")
        if max(numbers) >= len(objects):
            told = f"has {len(objects)} objects, expression {id} speaks of number {max(numbers)}"
            raise EntryFault("no object", f"{self._where}: {told}")
        masks = [self._mask(number) for number in numbers]
        shapes = {reading.field(objects[number], f"{self._where}: object {number}", str, "shape") for number in numbers}
        found = {str(number + 1): f"{self._where}: obj_bbox" for number in numbers}
        return Region(
            id=id,
            split=split,
            boxes=tuple(
                reading.box(reading.field(boxes, where, list, name), f"{where} {name}") for name, where in found.items()
            ),
            expressions=(Expression(id, text),),
            mask=union(masks, self.size[1], self.size[0]),
            category=shapes.pop() if len(shapes) == 1 else None,
        )

    def _mask(self, number: int) -> Rle:
        if number not in self._masks:
            runs: dict[str, Any] = reading.field(self._scene, self._where, dict, "obj_mask")
            name = str(number + 1)
            where = f"{self._where}: obj_mask"
            self._masks[number] = _mask(reading.field(runs, where, str, name), self.size, f"{where} {name}")
        return self._masks[number]

    def _pixels(self) -> int:
        """Of the first mask that is one; 0 where none is."""
        runs = self._scene.get("obj_mask")
        given = runs.values() if isinstance(runs, dict) else ()
        return next((sum(counts) for one in given if isinstance(one, str) and (counts := _counts(one))), 0)


def _regions(scene: _Scene, expressions: list[Any], split: _Split) -> tuple[tuple[Region, ...], tuple[Fault, ...]]:
    regions: list[Region] = []
    faults: list[Fault] = []
    for _, id, text, numbers in expressions:
        with entry(faults, "region", id, split.name, split.scenes, _takes(numbers), id):
            regions.append(scene.region(id, text, numbers, split.name))
    return tuple(regions), tuple(faults)


def _counts(runs: str) -> list[int]:
    return list(map(int, runs.split(","))) if _RUNS.fullmatch(runs) else []


def _mask(runs: str, size: tuple[int, int], where: str) -> Rle:
    """The COCO mask of runs "0s,1s,0s,..." along the rows, those of COCO going down the columns."""
    width, height = size
    counts = _counts(runs)
    if sum(counts) != width * height:
        told = f"is {reprlib.repr(runs)}, expected runs that add up to the {width}x{height} pixels of the image"
        raise EntryFault("mask", f"{where} {told}")
    pixels = np.repeat(np.arange(len(counts)) % 2, counts).astype(np.uint8).reshape(height, width)
    rle = coco_mask.encode(np.asfortranarray(pixels))
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}
