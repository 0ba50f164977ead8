"""RefCOCO, RefCOCO+, RefCOCOg and ReferIt as SimREC prepares them (github.com/luogen1996/SimREC, Luo et al. 2022).

The layout is that of commit e8136cc: its ``data/data_process.py`` writes it, from the files of REFER, its
``simrec/datasets/dataset.py`` reads it, and ``DATA_PRE_README.md`` draws it. ``--root`` is that ``data`` folder:

* ``anns/<name>.json``, or ``anns/<name>/<name>.json`` as the README has it, is an object with a list a split. An item
  has ``iid`` (the image's number), ``bbox`` (x, y, w, h), ``refs`` (texts) and ``mask_id`` (the ref's number), and
  ``cat_id``, which counts COCO's categories without their gaps and their names, so that regions have none here;
* ``masks/<name>/<mask_id>.npy`` is a mask (height, width) of bytes. Arrays of objects, which would be pickles, are
  refused. Without that folder (``--generate_mask`` was not given) regions have no mask;
* the images are ``images/train2014/COCO_train2014_<iid>.jpg``, or in ``images/coco``, those of ReferIt (``refclef``)
  ``images/refclef/<iid>.jpg``; or in ``--images``.

``--partition`` is the name. train has an item a ref, the other splits one a text; those of one mask_id become one
region. A text has no id of its own: it gets that of its ref and its place among the ref's texts. The merged pretraining
data and Flickr30k are files to download that nothing in the repository describes, and are not read.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from laconvnet.files import retried
from laconvnet.images import MAX_PIXELS
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import Account, Fault, RawSample
from laconvnet.shards.format.record import Box, Expression, Region, Rle
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, sample
from laconvnet.shards.sources.faults import EntryFault, lost
from laconvnet.shards.sources.masks import of_pixels

_LOG = logging.getLogger(__name__)
_HIGHEST = 10**12  # an image's name has twelve digits
# By data set: the folders of the images, and their names.
_COCO = (("train2014", "coco"), "COCO_train2014_{:012d}.jpg")
_IMAGES = {"refcoco": _COCO, "refcoco+": _COCO, "refcocog": _COCO, "refclef": (("refclef",), "{}.jpg")}


class SimRec:
    """Expressions and masks in the files of SimREC."""

    name = "simrec"
    title = "RefCOCO, RefCOCO+, RefCOCOg or ReferIt in the files that SimREC prepares; --partition says which"
    licence = "annotations: COCO, CC BY 4.0, ReferIt's: terms unknown; pictures: Flickr terms of use, SAIAPR TC-12"
    files = (
        "anns/<partition>.json or anns/<partition>/<partition>.json: iid, bbox, refs, mask_id by split; --partition is "
        f"{', '.join(_IMAGES)}, or may be left out where there is one of them",
        "masks/<partition>/<mask_id>.npy: masks, if there are any",
        "images/train2014/ (or images/coco/, images/refclef/): the images, or their folder as --images",
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
        """See `shards.sources.base.Source.samples`. Images come in the order of their numbers."""
        partition = _partition(root, partition)
        path = _annotations(root, partition)
        folders, file_name = _IMAGES[partition]
        there = [root / "images" / name for name in folders]
        images_at = reading.image_folder(
            images or next(filter(Path.is_dir, there), there[0]),
            "expected the images there; name their folder with --images",
            with_images,
        )
        masks = root / "masks" / partition
        if not masks.is_dir():
            _LOG.warning("%s: no such folder; the regions have no masks", masks)
        account = Account()
        chosen = choose_splits(splits, reading.top_keys(path), path)
        store = reading.CompressedStore()
        for split in sorted(chosen):
            _load(path, split, store, account)
        reader = _Reader(path, masks if masks.is_dir() else None, account)

        def records() -> Iterator[RawSample]:
            for iid in sorted(store):
                regions, faults = reader.regions(store.get(iid))
                for split in {region.split for region in regions} | {fault.split for fault in faults}:
                    account.count(split, picture=1)
                name, coco_id = file_name.format(iid), iid if folders == _COCO[0] else None
                given: dict[str, Any] = {"coco_id": coco_id, "faults": tuple(faults)}
                yield sample(self, images_at / name, f"{partition}-{iid}", name, regions=tuple(regions), **given)

        return Samples(records(), len(store), account)


def _annotations(root: Path, partition: str) -> Path:
    anns = root / "anns"
    flat, deep = anns / f"{partition}.json", anns / partition / f"{partition}.json"
    return deep if deep.is_file() and not flat.is_file() else flat


def _partition(root: Path, partition: str | None) -> str:
    """The data set to read; raises InputError where it is not there, or none is named of several."""
    reading.need_folder(root / "anns", "expected SimREC's data folder as --root; change --root")
    there = [name for name in _IMAGES if _annotations(root, name).is_file()]
    if partition in there or (partition is None and len(there) == 1):
        return partition or there[0]
    if not there:
        raise InputError(f"{root / 'anns'}: none of {', '.join(f'{name}.json' for name in _IMAGES)}; change --root")
    what = "holds several data sets" if partition is None else f"--partition {partition} is not there"
    raise InputError(f"{root / 'anns'}: {what}; expected --partition with one of {', '.join(there)}")


def _load(path: Path, split: str, store: reading.CompressedStore, account: Account) -> None:
    """The items of a split by image; those whose image is unknown are lost in the account."""
    for place, item in enumerate(reading.read_items(path, f"{split}.item")):
        try:
            iid = reading.field(item, f"{path}: {split} {place}", int, "iid")
            if not 0 <= iid < _HIGHEST:
                raise EntryFault("field", f"{path}: {split} {place}: key 'iid' is {iid}, expected 0 to {_HIGHEST - 1}")
        except EntryFault as error:
            texts = item.get("refs")
            takes = {"region": 1, "expression": len(texts) if isinstance(texts, list) else 0}
            account.count(split, **takes)
            account.faults.append(lost(error, "region", f"{split} {place}", split, path, takes))
        else:
            store.add(iid, [[split, place, {name: item.get(name) for name in ("bbox", "refs", "mask_id")}]])


@dataclass(frozen=True, slots=True)
class _Reader:
    """Makes regions of items; ``masks`` is the folder of their masks, None without."""

    path: Path
    masks: Path | None
    account: Account

    def regions(self, items: list[Any]) -> tuple[list[Region], list[Fault]]:
        """The regions of an image, and the faults of what was lost."""
        by_ref: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {}
        for split, place, item in items:
            mask_id = item["mask_id"]
            by_ref.setdefault((split, repr(mask_id) if type(mask_id) is int else f"item {place}"), []).append(
                (place, item)
            )
        regions: list[Region] = []
        faults: list[Fault] = []
        for (split, name), of_ref in by_ref.items():
            texts = [text for _, item in of_ref if isinstance(item["refs"], list) for text in item["refs"]]
            takes = {"region": 1, "expression": len(texts), "box": 1, "mask": int(self.masks is not None)}
            self.account.count(split, **takes)
            dropped: list[Fault] = []
            try:
                regions.append(self._region(split, name, of_ref, dropped))
            except EntryFault as error:
                faults.append(lost(error, "region", name, split, self.path, takes, name))
            else:
                faults += dropped
        return regions, faults

    def _region(self, split: str, name: str, items: list[tuple[int, dict[str, Any]]], faults: list[Fault]) -> Region:
        place, first = items[0]
        where = f"{self.path}: {split} {place}"
        mask_id = reading.field(first, where, int, "mask_id")
        box: Box = reading.box(reading.field(first, where, list, "bbox"), where)
        other = next((at for at, item in items if item["bbox"] != first["bbox"]), None)
        if other is not None:
            raise EntryFault("duplicate id", f"{where}: mask_id {mask_id} has another bbox in {split} {other}")
        given = [text for at, item in items for text in reading.field(item, f"{self.path}: {split} {at}", list, "refs")]
        expressions: list[Expression] = []
        for number, text in enumerate(given):
            id = f"{name}-{number}"
            try:
                expressions.append(Expression(id, reading.phrase({"refs": text}, f"{where}: text {number}", "refs")))
            except EntryFault as error:
                faults.append(lost(error, "expression", id, split, self.path, {"expression": 1}, name))
        mask = None if self.masks is None else _mask(self.masks / f"{mask_id}.npy", where)
        return Region(name, split, (box,), tuple(expressions), mask)


def _mask(path: Path, where: str) -> Rle:
    """The mask in a file of NumPy; it is mapped first, so that no size it claims is allocated."""
    try:
        pixels = retried(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError as error:
        raise EntryFault("no file", f"{where}: mask {path}: no such file") from error
    except (ValueError, EOFError) as error:
        raise EntryFault("mask", f"{where}: mask {path} is no array of numbers ({reprlib.repr(str(error))})") from error
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.dtype.kind not in "bui":
        told = f"an array {getattr(pixels, 'shape', '')} of {getattr(pixels, 'dtype', type(pixels).__name__)}"
        raise EntryFault("mask", f"{where}: mask {path} is {told}, expected (height, width) of whole numbers")
    if not 0 < pixels.size <= MAX_PIXELS:
        raise EntryFault("mask", f"{where}: mask {path} has {pixels.size} pixels, expected 1 to {MAX_PIXELS}")
    return of_pixels(pixels)


SIMREC = SimRec()
