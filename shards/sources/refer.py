"""RefCOCO, RefCOCO+ and RefCOCOg in the layout of the REFER tool (lichengunc/refer; Yu et al. 2016, Mao et al. 2016).

The root holds one folder a data set, each with ``refs(<partition>).p`` (which object, which sentences, which split) and
``instances.json`` (images, boxes, masks and categories of COCO train2014). The images lie where the tool looks for
them, in ``images/mscoco/images/train2014``, or in ``--images``.

A referent becomes a region, each of its sentences an expression; a sentence that occurs twice stays twice, because
evaluation counts every one. The text is the tool's cleaned ``sent``, not ``raw``: the published numbers, the authors'
included, are on ``sent``. A sentence of blanks only is skipped and counted in a warning. The image's file name comes
from ``instances.json``; the one in a ref ends in the id of an annotation and names no file.
"""

from __future__ import annotations

import logging
import reprlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Box, Expression, Region, Rle
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, sample
from laconvnet.shards.sources.masks import to_rle, union
from laconvnet.shards.sources.safe_pickle import load_refs

_LOG = logging.getLogger(__name__)
_ANNOTATION_KEYS = ("image_id", "category_id", "bbox", "segmentation", "iscrowd")
PICTURES = Path("images", "mscoco", "images", "train2014")


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The images of a data set: their name, and where the tool looks for them.

    ``coco``: their ids and the categories of what they show are COCO's, and are kept.
    """

    title: str
    folder: Path
    coco: bool


_COCO = ImageSet("COCO train2014", PICTURES, coco=True)


@dataclass(frozen=True, slots=True)
class _Image:
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
    collection: ImageSet = _COCO

    @property
    def folder(self) -> str:
        """The data set's folder under the root."""
        return self.name

    @property
    def files(self) -> tuple[str, ...]:
        return (
            f"{self.folder}/refs(PARTITION).p: referents, sentences; --partition, {self.default_partition} by default",
            f"{self.folder}/instances.json: boxes, masks, categories and image sizes",
            f"{self.collection.folder}/*.jpg: the images of {self.collection.title}, or their folder as --images",
        )

    def refs_name(self, partition: str) -> str:
        """The file of a partition, in the data set's folder."""
        return f"refs({partition}).p"

    def load(self, path: Path) -> list[dict[str, Any]]:
        """The refs of such a file, checked, each with ref_id, image_id, split, sentences and ann_ids."""
        return [{**ref, "ann_ids": [ref["ann_id"]]} for ref in load_refs(path)]

    def image_folder(self, root: Path) -> Path:
        """Where the data set's own tool looks for the images."""
        return root / self.collection.folder

    def samples(
        self, root: Path, *, images: Path | None, splits: Collection[str] | None, partition: str | None
    ) -> Samples:
        """See `shards.sources.base.Source.samples`. Images come in the order of their ids."""
        folder = reading.need_folder(
            root / self.folder,
            f"expected the REFER layout {self.folder}/{self.refs_name('...')} under --root; change --root",
        )
        partition = partition or self.default_partition
        refs_path = folder / self.refs_name(partition)
        before, after = self.refs_name("*").split("*")
        known = sorted(path.name[len(before) : -len(after)] for path in folder.glob(self.refs_name("*")))
        if partition not in known:
            raise InputError(
                f"--partition {partition}: {refs_path} is not there; "
                + (
                    f"expected one of {', '.join(known)}"
                    if known
                    else f"no {self.refs_name('...')} is, get the annotations"
                )
            )
        instances = reading.need_file(
            folder / "instances.json", f"expected it beside {refs_path.name}; get the annotations"
        )
        images_at = reading.need_folder(
            images or self.image_folder(root),
            f"expected the images of {self.collection.title} there; name their folder with --images",
        )
        refs = self.load(refs_path)
        chosen = choose_splits(splits, {ref["split"] for ref in refs}, refs_path)
        refs = [ref for ref in refs if ref["split"] in chosen]
        _check_ids(refs, refs_path)
        listed_images, annotations, categories = _load_instances(instances, refs)
        if not self.collection.coco:
            categories = {}
        listed = set(annotations)
        by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for ref in refs:
            where = f"{refs_path}: ref_id {ref['ref_id']}"
            if ref["image_id"] not in listed_images:
                raise InputError(f"{where}: key 'image_id' is {ref['image_id']}, which {instances} does not list")
            for ann_id in ref["ann_ids"]:
                if ann_id not in listed:
                    raise InputError(f"{where}: key 'ann_id' is {ann_id}, which {instances} does not list")
            by_image[ref["image_id"]].append(ref)
        for image in listed_images.values():
            reading.inside(images_at, image.file_name, str(instances))
        _warn_of_blank(refs, refs_path)

        def records() -> Iterator[RawSample]:
            for image_id in sorted(by_image):
                image = listed_images[image_id]
                regions = tuple(_region(ref, annotations, image, categories, instances) for ref in by_image[image_id])
                path = reading.inside(images_at, image.file_name, str(instances))
                size, coco_id = (image.width, image.height), image_id if self.collection.coco else None
                yield sample(self, path, str(image_id), image.file_name, size, regions, coco_id=coco_id)

        return Samples(records(), len(by_image))


REFCOCO = Refer("refcoco", "RefCOCO: 142,209 expressions for 50,000 objects in 19,994 COCO images", "unc")
REFCOCO_PLUS = Refer("refcoco+", "RefCOCO+: 141,564 expressions that may not speak of location", "unc")
REFCOCOG = Refer("refcocog", "RefCOCOg: 95,010 longer expressions for 49,822 objects in 25,799 COCO images", "umd")


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
) -> tuple[dict[int, _Image], reading.CompressedStore, dict[int, str]]:
    """Images, annotations (deflated: polygons are most of the file) and category names that the refs speak of."""
    image_ids = {ref["image_id"] for ref in refs}
    ann_ids = {ann_id for ref in refs for ann_id in ref["ann_ids"]}
    listed_images: dict[int, _Image] = {}
    for image in reading.read_items(path, "images.item"):
        image_id = reading.field(image, f"{path}: image", int, "id")
        if image_id in image_ids:
            where = f"{path}: image {image_id}"
            listed_images[image_id] = _Image(
                reading.field(image, where, str, "file_name"),
                reading.side(image, where, "width"),
                reading.side(image, where, "height"),
            )
    annotations = reading.CompressedStore(path)
    for annotation in reading.read_items(path, "annotations.item"):
        ann_id = annotation.get("id")
        if isinstance(ann_id, bool) or not isinstance(ann_id, int | str):
            raise InputError(f"{path}: annotation: key 'id' is {reprlib.repr(ann_id)}, expected a number or a name")
        if ann_id in ann_ids:
            annotations.add(ann_id, [{key: annotation.get(key) for key in _ANNOTATION_KEYS}])
    categories = {
        reading.field(entry, f"{path}: category", int, "id"): reading.field(entry, f"{path}: category", str, "name")
        for entry in reading.read_items(path, "categories.item")
    }
    return listed_images, annotations, categories


def _region(
    ref: dict[str, Any], annotations: reading.CompressedStore, image: _Image, categories: dict[int, str], path: Path
) -> Region:
    """The region of a ref: the boxes of its annotations and the union of their masks, both empty without any.

    Without ``categories`` it has none.
    """
    named: list[str] = []
    boxes: list[Box] = []
    masks: list[Rle] = []
    for ann_id in ref["ann_ids"]:
        where = f"{path}: annotation {ann_id} of ref_id {ref['ref_id']}"
        annotation = annotations.get(ann_id)[0]
        if annotation.get("image_id") != ref["image_id"]:
            raise InputError(
                f"{where}: key 'image_id' is {annotation.get('image_id')!r}, the ref's is {ref['image_id']}"
            )
        # The authors of gRefCOCO leave a crowd out of a group; a ref of one object has never been a crowd.
        if len(ref["ann_ids"]) > 1 and annotation.get("iscrowd"):
            continue
        if categories:
            category = reading.field(annotation, where, int, "category_id")
            if category not in categories:
                raise InputError(f"{where}: key 'category_id' is {category}, which 'categories' does not list")
            named.append(categories[category])
        boxes.append(reading.box(reading.field(annotation, where, list, "bbox"), where))
        masks.append(_mask(annotation.get("segmentation"), image, where))
    where = f"{path}: ref_id {ref['ref_id']}"
    if ref["ann_ids"] and not boxes:
        raise InputError(f"{where}: every annotation of it is a crowd; get the original file")
    texts = [(sentence["sent_id"], reading.text(sentence["sent"], where)) for sentence in ref["sentences"]]
    return Region(
        id=str(ref["ref_id"]),
        split=ref["split"],
        boxes=tuple(boxes),
        expressions=tuple(Expression(str(sent_id), text) for sent_id, text in texts if text),
        mask=masks[0] if len(masks) == 1 else union(masks, image.height, image.width),
        category=named[0] if len(set(named)) == 1 else None,
    )


def _mask(segmentation: Any, image: _Image, where: str) -> Rle:
    """A mask of COCO, or ReferIt's list of run lengths: these bring a size of their own, for the builder to compare."""
    if not isinstance(segmentation, list) or not segmentation or not isinstance(segmentation[0], dict):
        return to_rle(segmentation, image.height, image.width, where)
    size = reading.field(segmentation[0], f"{where}: segmentation", list, "size")
    if len(size) != 2:
        raise InputError(f"{where}: key 'size' of the mask is {reprlib.repr(size)}, expected [height, width]")
    height, width = (reading.side({"size": side}, where, "size") for side in size)
    parts = [to_rle(part, height, width, where) for part in segmentation]
    return union(parts, height, width)
