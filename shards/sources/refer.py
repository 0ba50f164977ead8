"""RefCOCO, RefCOCO+ and RefCOCOg in the layout of the REFER tool (lichengunc/refer; Yu et al. 2016, Mao et al. 2016).

The root holds one folder a data set, each with ``refs(<partition>).p`` (which object, which sentences, which split) and
``instances.json`` (pictures, boxes, masks and categories of COCO train2014). The pictures lie where the tool looks for
them, in ``images/mscoco/images/train2014``, or in ``--images``.

A referent becomes a region, each of its sentences an expression; a sentence that occurs twice stays twice, because
evaluation counts every one. The text is the tool's cleaned ``sent``, not ``raw``: the published numbers, the authors'
included, are on ``sent``. A sentence of blanks only is left out and counted in a warning. The picture's file name comes
from ``instances.json``; the one in a ref ends in the id of an annotation and names no file.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import InputError
from shards.raw import RawSample
from shards.record import Expression, Record, Region
from shards.safe_pickle import load_refs
from shards.sources import reading
from shards.sources.base import Samples, choose_splits
from shards.sources.masks import to_rle

_LOG = logging.getLogger(__name__)
_ANNOTATION_KEYS = ("image_id", "category_id", "bbox", "segmentation")
_PICTURES = Path("images", "mscoco", "images", "train2014")


@dataclass(frozen=True, slots=True)
class _Picture:
    file_name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Refer:
    """One data set of the REFER tool."""

    name: str
    title: str
    default_partition: str
    licence: str = "annotations: COCO, CC BY 4.0; pictures: Flickr terms of use"

    @property
    def files(self) -> tuple[str, ...]:
        return (
            f"{self.name}/refs(PARTITION).p: referents and sentences; --partition, {self.default_partition} by default",
            f"{self.name}/instances.json: boxes, masks, categories and picture sizes",
            f"{_PICTURES}/*.jpg: the pictures of COCO train2014, or their folder as --images",
        )

    def samples(
        self, root: Path, *, images: Path | None, splits: Collection[str] | None, partition: str | None
    ) -> Samples:
        """See `shards.sources.base.Source.samples`. Pictures come in the order of their ids."""
        folder = reading.need_folder(
            root / self.name, f"expected the REFER layout {self.name}/refs(...).p under --root; change --root"
        )
        partition = partition or self.default_partition
        refs_path = folder / f"refs({partition}).p"
        known = sorted(path.name[5:-3] for path in folder.glob("refs(*).p"))
        if partition not in known:
            raise InputError(
                f"--partition {partition}: {refs_path} is not there; "
                + (f"expected one of {', '.join(known)}" if known else "no refs(...).p is, get the annotations")
            )
        instances = reading.need_file(folder / "instances.json", "expected it beside refs(...).p; get the annotations")
        pictures_at = reading.need_folder(
            images or root / _PICTURES, "expected the pictures of COCO train2014 there; name their folder with --images"
        )
        refs = load_refs(refs_path)
        chosen = choose_splits(splits, {ref["split"] for ref in refs}, refs_path)
        refs = [ref for ref in refs if ref["split"] in chosen]
        _check_ids(refs, refs_path)
        pictures, annotations, categories = _load_instances(instances, refs)
        by_picture: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for ref in refs:
            where = f"{refs_path}: ref_id {ref['ref_id']}"
            if ref["image_id"] not in pictures:
                raise InputError(f"{where}: key 'image_id' is {ref['image_id']}, which {instances} does not list")
            if ref["ann_id"] not in annotations:
                raise InputError(f"{where}: key 'ann_id' is {ref['ann_id']}, which {instances} does not list")
            by_picture[ref["image_id"]].append(ref)
        for picture in pictures.values():
            reading.inside(pictures_at, picture.file_name, str(instances))
        _warn_of_blank(refs, refs_path)

        def records() -> Iterator[RawSample]:
            for image_id in sorted(by_picture):
                picture = pictures[image_id]
                regions = tuple(
                    _region(ref, annotations.get(ref["ann_id"])[0], picture, categories, instances)
                    for ref in by_picture[image_id]
                )
                record = Record(
                    source=self.name,
                    picture_id=str(image_id),
                    file_name=picture.file_name,
                    width=picture.width,
                    height=picture.height,
                    licence=self.licence,
                    regions=regions,
                    coco_id=image_id,
                )
                yield RawSample(record, reading.inside(pictures_at, picture.file_name, str(instances)))

        return Samples(records(), len(by_picture))


REFCOCO = Refer("refcoco", "RefCOCO: 142,209 expressions for 50,000 objects in 19,994 COCO pictures", "unc")
REFCOCO_PLUS = Refer("refcoco+", "RefCOCO+: 141,564 expressions that may not speak of location", "unc")
REFCOCOG = Refer("refcocog", "RefCOCOg: 95,010 longer expressions for 49,822 objects in 25,799 COCO pictures", "umd")


def _check_ids(refs: list[dict[str, Any]], path: Path) -> None:
    seen: set[int] = set()
    for ref in refs:
        if ref["ref_id"] in seen:
            raise InputError(f"{path}: ref_id {ref['ref_id']} occurs twice; get the original file")
        seen.add(ref["ref_id"])


def _warn_of_blank(refs: list[dict[str, Any]], path: Path) -> None:
    blank = sum(not sentence["sent"].strip() for ref in refs for sentence in ref["sentences"])
    if blank:
        _LOG.warning("%s: %d sentences without words are left out", path, blank)


def _load_instances(
    path: Path, refs: list[dict[str, Any]]
) -> tuple[dict[int, _Picture], reading.Shelf, dict[int, str]]:
    """Pictures, annotations (deflated: polygons are most of the file) and category names that the refs speak of."""
    image_ids = {ref["image_id"] for ref in refs}
    ann_ids = {ref["ann_id"] for ref in refs}
    pictures: dict[int, _Picture] = {}
    for image in reading.read_items(path, "images.item"):
        image_id = reading.field(image, f"{path}: picture", int, "id")
        if image_id in image_ids:
            where = f"{path}: picture {image_id}"
            pictures[image_id] = _Picture(
                reading.field(image, where, str, "file_name"),
                reading.side(image, where, "width"),
                reading.side(image, where, "height"),
            )
    annotations = reading.Shelf(path)
    for annotation in reading.read_items(path, "annotations.item"):
        ann_id = reading.field(annotation, f"{path}: annotation", int, "id")
        if ann_id in ann_ids:
            annotations.add(ann_id, [{key: annotation.get(key) for key in _ANNOTATION_KEYS}])
    categories = {
        reading.field(entry, f"{path}: category", int, "id"): reading.field(entry, f"{path}: category", str, "name")
        for entry in reading.read_items(path, "categories.item")
    }
    return pictures, annotations, categories


def _region(
    ref: dict[str, Any], annotation: dict[str, Any], picture: _Picture, categories: dict[int, str], path: Path
) -> Region:
    where = f"{path}: annotation {ref['ann_id']} of ref_id {ref['ref_id']}"
    if annotation.get("image_id") != ref["image_id"]:
        raise InputError(f"{where}: key 'image_id' is {annotation.get('image_id')!r}, the ref's is {ref['image_id']}")
    category = reading.field(annotation, where, int, "category_id")
    if category not in categories:
        raise InputError(f"{where}: key 'category_id' is {category}, which 'categories' does not list")
    texts = [(sentence["sent_id"], reading.text(sentence["sent"], where)) for sentence in ref["sentences"]]
    return Region(
        id=str(ref["ref_id"]),
        split=ref["split"],
        boxes=(reading.box(reading.field(annotation, where, list, "bbox"), where),),
        expressions=tuple(Expression(str(sent_id), text) for sent_id, text in texts if text),
        mask=to_rle(annotation.get("segmentation"), picture.height, picture.width, where),
        category=categories[category],
    )
