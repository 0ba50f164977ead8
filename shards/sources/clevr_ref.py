"""CLEVR-Ref+ (Liu et al. 2019) in the layout of the clevr_ref+_1.0 download and of its authors' generator.

The root holds ``refexps/clevr_ref+_<split>_refexps.json``, ``scenes/clevr_ref+_<split>_scenes.json`` and
``images/<split>/*.png``. The expressions of the test split are not published.

An expression becomes a region with the id ``<split>-<position in the file>``, counted from 0: ``refexp_index`` starts
anew with each run of the generator. What it refers to is the output of the last function of its program: one object or
several, counted from 0. The scene has their boxes (``obj_bbox``: x, y, w, h of the whole object, with what others hide
of it) and masks (``obj_mask``: what is seen of it) under keys that count from 1. A region has the boxes of all its
objects and the union of their masks; its category is their shape, where they share one. Images without an expression
are not built.
"""

from __future__ import annotations

import itertools
import operator
import re
import reprlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Region, Rle
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, no_partition, sample
from laconvnet.shards.sources.clevr import chosen_files, image_folders, last_function
from laconvnet.shards.sources.masks import union

_REFEXPS = "refexps/clevr_ref+_<split>_refexps.json"
_SCENES = "scenes/clevr_ref+_<split>_scenes.json"
# The scenes do not tell the size of their images, and their masks are runs along the rows.
_WIDTH, _HEIGHT = 480, 320
_RUNS = re.compile(r"[0-9]{1,6}(?:,[0-9]{1,6})*")


@dataclass(frozen=True, slots=True)
class _Split:
    """The files of a split, its folder of images, and its expressions by image."""

    name: str
    refexps: Path
    scenes: Path
    image_folder: Path
    expressions: reading.CompressedStore


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
        self, root: Path, *, images: Path | None, splits: Collection[str] | None, partition: str | None
    ) -> Samples:
        """See `shards.sources.base.Source.samples`. Images come in the order of split and scene.

        The scenes, gigabytes of masks, are read while the samples are taken: a fault in one is raised then.
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
        folders = image_folders(images or root / "images", paths)
        chosen = [
            _Split(split, path, scenes[split], folders[split], _expressions(path, split, folders[split]))
            for split, path in paths.items()
        ]

        def records() -> Iterator[RawSample]:
            for split in chosen:
                missing = set(split.expressions)
                for scene in reading.read_items(split.scenes, "scenes.item"):
                    file_name = reading.field(scene, f"{split.scenes}: scene", str, "image_filename")
                    missing.discard(file_name)
                    expressions = split.expressions.get(file_name)
                    if not expressions:
                        continue
                    regions = _regions(scene, expressions, split.name, f"{split.scenes}: scene of {file_name}")
                    path = reading.inside(split.image_folder, file_name, str(split.scenes))
                    yield sample(self, path, Path(file_name).stem, file_name, (_WIDTH, _HEIGHT), regions)
                if missing:
                    raise InputError(
                        f"{split.scenes}: no scene of {min(missing)} ({len(missing)} images of {split.refexps.name} "
                        "lack theirs); get the file again"
                    )

        return Samples(records(), sum(len(split.expressions) for split in chosen))


def _expressions(path: Path, split: str, image_folder: Path) -> reading.CompressedStore:
    """Id, text and objects of every expression, by the file name of its image. Those of one are together."""
    store = reading.CompressedStore(path)
    refexps = enumerate(reading.read_items(path, "refexps.item"))
    entries = (_expression(refexp, f"{split}-{position}", path) for position, refexp in refexps)
    for file_name, group in itertools.groupby(entries, operator.itemgetter(0)):
        values = [entry for _, entry in group]
        reading.inside(image_folder, file_name, f"{path}: expression {values[0][0]}")
        store.add(file_name, values)
    return store


def _expression(refexp: dict[str, Any], id: str, path: Path) -> tuple[str, tuple[str, str, list[int]]]:
    where = f"{path}: expression {id}"
    file_name = reading.field(refexp, where, str, "image_filename")
    text = reading.phrase(refexp, where, "refexp")
    last = last_function(refexp, where)
    objects: list[Any] = reading.field(last, f"{where}: the program's last function", list, "_output")
    if not objects or any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in objects):
        raise InputError(
            f"{where}: the program's last '_output' is {reprlib.repr(objects)}, expected the numbers of objects"
        )
    return file_name, (id, text, list(dict.fromkeys(objects)))


def _regions(scene: dict[str, Any], expressions: list[Any], split: str, where: str) -> tuple[Region, ...]:
    """The regions of an image; every mask is decoded once, whoever speaks of its object."""
    objects = reading.objects(scene, where, "objects")
    boxes: dict[str, Any] = reading.field(scene, where, dict, "obj_bbox")
    runs: dict[str, Any] = reading.field(scene, where, dict, "obj_mask")
    masks: dict[int, Rle] = {}
    regions = []
    for id, text, numbers in expressions:
        if max(numbers) >= len(objects):
            raise InputError(f"{where}: has {len(objects)} objects, expression {id} speaks of number {max(numbers)}")
        for number in numbers:
            if number not in masks:
                key = str(number + 1)
                masks[number] = _mask(reading.field(runs, f"{where}: obj_mask", str, key), f"{where}: obj_mask {key}")
        shapes = {reading.field(objects[number], f"{where}: object {number}", str, "shape") for number in numbers}
        regions.append(
            Region(
                id=id,
                split=split,
                boxes=tuple(
                    reading.box(
                        reading.field(boxes, f"{where}: obj_bbox", list, str(number + 1)),
                        f"{where}: obj_bbox {number + 1}",
                    )
                    for number in numbers
                ),
                expressions=(Expression(id, text),),
                mask=union([masks[number] for number in numbers], _HEIGHT, _WIDTH),
                category=shapes.pop() if len(shapes) == 1 else None,
            )
        )
    return tuple(regions)


def _mask(runs: str, where: str) -> Rle:
    """The COCO mask of runs "0s,1s,0s,..." along the rows, those of COCO going down the columns."""
    counts = list(map(int, runs.split(","))) if _RUNS.fullmatch(runs) else []
    if sum(counts) != _WIDTH * _HEIGHT:
        raise InputError(
            f"{where} is {reprlib.repr(runs)}, expected runs that add up to the {_WIDTH}x{_HEIGHT} pixels of an image"
        )
    pixels = np.repeat(np.arange(len(counts)) % 2, counts).astype(np.uint8).reshape(_HEIGHT, _WIDTH)
    rle = coco_mask.encode(np.asfortranarray(pixels))
    return {"size": [_HEIGHT, _WIDTH], "counts": rle["counts"].decode("ascii")}
