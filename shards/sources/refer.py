"""RefCOCO, RefCOCO+ and RefCOCOg in the layout of the REFER tool (lichengunc/refer; Yu et al. 2016, Mao et al. 2016).

The root holds one folder a data set, each with ``refs(<partition>).p`` (which object, which sentences, which split) and
``instances.json`` (images, boxes, masks and categories of COCO train2014). The images lie where the tool looks for
them, in ``images/mscoco/images/train2014``, or in ``--images``.

A referent becomes a region, each of its sentences an expression; a sentence that occurs twice stays twice, because
evaluation counts every one. The text is the tool's cleaned ``sent``, not ``raw``: the published numbers, the authors'
included, are on ``sent``. The image's file name comes from ``instances.json``; the one in a ref ends in the id of an
annotation and names no file. A region whose mask cannot be read is lost as a whole.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.pictures import named
from laconvnet.shards.format.raw import Account, Fault, RawSample
from laconvnet.shards.format.record import Box, Region, Rle
from laconvnet.shards.sources import reading, refs
from laconvnet.shards.sources.base import Samples, choose_splits, sample
from laconvnet.shards.sources.faults import EntryFault, entry, lost
from laconvnet.shards.sources.listed import Listed
from laconvnet.shards.sources.masks import to_rle, union
from laconvnet.shards.sources.refs import AnnotationId, Ref
from laconvnet.shards.sources.safe_pickle import check_ref, check_sentence, load_refs

_ANNOTATION_KEYS = ("image_id", "category_id", "bbox", "segmentation", "iscrowd")
_FLICKR_URL = re.compile(r"https?://[^/]*flickr\.com/.*/([0-9]{1,20})_[0-9a-f]+(?:_[a-z])?\.jpg")
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
    flickr_id: int | None


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

    def load(self, path: Path) -> Iterable[Any]:
        """The entries of such a file, of which `check_ref` knows whether they are refs."""
        return load_refs(path)

    def check_ref(self, ref: Any, where: str) -> tuple[AnnotationId, ...]:
        """The annotations of a ref, checked with its other keys; raises EntryFault."""
        check_ref(ref, where)
        return (ref["ann_id"],)

    def image_folder(self, root: Path) -> Path:
        """Where the data set's own tool looks for the images."""
        return root / self.collection.folder

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
        images_at = reading.image_folder(
            images or self.image_folder(root),
            f"expected the images of {self.collection.title} there; name their folder with --images",
            with_images,
        )
        found = list(refs.read(refs_path, self.load(refs_path), self.check_ref, check_sentence))
        splits = choose_splits(splits, refs.splits(found), refs_path)
        account = Account()
        chosen = refs.chosen(found, splits, refs_path, account)
        listed = _load_instances(instances, chosen, account)
        if not self.collection.coco:
            listed.categories.clear()
        for image in listed.images.usable.values():
            reading.inside(images_at, image.file_name, str(instances))
        for image_id in chosen.images - listed.images.usable.keys():
            account.faults += self._without_image(image_id, chosen, listed, refs_path)

        def records() -> Iterator[RawSample]:
            for image_id in sorted(chosen.images & listed.images.usable.keys()):
                image = listed.images.usable[image_id]
                faults = list(chosen.faults.get(image_id, []))
                regions = []
                for ref in chosen.by_image.get(image_id, []):
                    changes: list[Fault] = []
                    with entry(faults, "region", ref.ref_id, ref.split, instances, ref.takes, str(ref.ref_id)):
                        regions.append(_region(ref, image, listed, refs_path, changes))
                        faults += changes
                path = reading.inside(images_at, image.file_name, str(instances))
                size, coco_id = (image.width, image.height), image_id if self.collection.coco else None
                yield sample(
                    self,
                    path,
                    str(image_id),
                    image.file_name,
                    size,
                    tuple(regions),
                    coco_id=coco_id,
                    faults=tuple(faults),
                    flickr_id=image.flickr_id,
                )

        return Samples(records(), len(chosen.images & listed.images.usable.keys()), account)

    def _without_image(self, image_id: int, chosen: refs.ChosenRefs, listed: _Instances, path: Path) -> Iterator[Fault]:
        """The faults of an image that no entry of instances.json, or none that can be used, tells of."""
        key = f"{self.name}-{image_id}"
        found = chosen.faults.get(image_id, [])
        yield from (dataclasses.replace(fault, key=key) for fault in found)
        of_image = chosen.by_image.get(image_id, [])
        error = listed.images.unusable.get(image_id)
        for ref in of_image:
            what = f"{path}: ref_id {ref.ref_id}: key 'image_id' is {image_id}, which {listed.path} does not list"
            why = error or EntryFault("no picture", what)
            yield lost(why, "region", ref.ref_id, ref.split, path, ref.takes, str(ref.ref_id), key)
        what = f"{path}: key 'image_id' is {image_id}, which {listed.path} does not list"
        why = error or EntryFault("no picture", what)
        names = named(self.name, "", image_id if self.collection.coco else None)
        for split in sorted({ref.split for ref in of_image} | {fault.split for fault in found}):
            yield lost(why, "picture", image_id, split, listed.path, {"picture": 1}, key=key, named=names)


REFCOCO = Refer("refcoco", "RefCOCO: 142,209 expressions for 50,000 objects in 19,994 COCO images", "unc")
REFCOCO_PLUS = Refer("refcoco+", "RefCOCO+: 141,564 expressions that may not speak of location", "unc")
REFCOCOG = Refer("refcocog", "RefCOCOg: 95,010 longer expressions for 49,822 objects in 25,799 COCO images", "umd")


@dataclass(frozen=True, slots=True)
class _Instances:
    """What instances.json tells of what the refs speak of: annotations are deflated, polygons are most of the file."""

    path: Path
    images: Listed[_Image]
    annotations: reading.CompressedStore
    categories: dict[int, str]


def _load_instances(path: Path, chosen: refs.ChosenRefs, account: Account) -> _Instances:
    images = _load_images(path, chosen.images)
    ann_ids = {ann_id for of_image in chosen.by_image.values() for ref in of_image for ann_id in ref.ann_ids}
    annotations = reading.CompressedStore()
    for annotation in reading.read_items(path, "annotations.item"):
        ann_id = annotation.get("id")
        with entry(account.faults, "box", ann_id, "", path, {}):
            if isinstance(ann_id, bool) or not isinstance(ann_id, int | str):
                given = f"key 'id' is {reprlib.repr(ann_id)}, expected a number or a name"
                raise EntryFault("field", f"{path}: annotation: {given}")
            if ann_id in ann_ids:
                annotations.add(ann_id, [{key: annotation.get(key) for key in _ANNOTATION_KEYS}])
    categories = {
        reading.field(entry, f"{path}: category", int, "id"): reading.field(entry, f"{path}: category", str, "name")
        for entry in reading.read_items(path, "categories.item")
    }
    return _Instances(path, images, annotations, categories)


def _load_images(path: Path, wanted: set[int]) -> Listed[_Image]:
    images = Listed[_Image]()
    for given in reading.read_items(path, "images.item"):
        image_id = given.get("id")
        if type(image_id) is not int or image_id not in wanted:  # one without an id is missed by the refs that name it
            continue
        where = f"{path}: image {image_id}"
        with images.reading(image_id):
            image = _Image(
                reading.field(given, where, str, "file_name"),
                reading.side(given, where, "width"),
                reading.side(given, where, "height"),
                _flickr_id(given.get("flickr_url")),
            )
            images.add(image_id, image, where)
    return images


def _flickr_id(url: Any) -> int | None:
    """The id of an image in its address, .../3138762291_f8d1391a71_z.jpg; None where there is none."""
    found = _FLICKR_URL.fullmatch(url) if isinstance(url, str) else None
    return int(found[1]) if found else None


def _region(ref: Ref, image: _Image, listed: _Instances, refs_path: Path, changes: list[Fault]) -> Region:
    """The region of a ref: the boxes of its annotations and the union of their masks, both empty without any.

    Without categories in the list it has none. ``changes`` is told of what of it is otherwise than in the file.
    """
    named: list[str] = []
    boxes: list[Box] = []
    masks: list[Rle] = []
    for ann_id in ref.ann_ids:
        where = f"{listed.path}: annotation {ann_id} of ref_id {ref.ref_id}"
        annotation = _annotation(ann_id, ref, listed, refs_path)
        if annotation.get("image_id") != ref.image_id:
            found = f"key 'image_id' is {reprlib.repr(annotation.get('image_id'))}, the ref's is {ref.image_id}"
            raise EntryFault("no picture", f"{where}: {found}")
        # The authors of gRefCOCO leave a crowd out of a group; a ref of one object has never been a crowd.
        if len(ref.ann_ids) > 1 and annotation.get("iscrowd"):
            left_out = EntryFault("crowd", f"{where}: a crowd, which is no referent of a group")
            changes.append(lost(left_out, "box", ann_id, ref.split, listed.path, {"box": 1}, str(ref.ref_id)))
            continue
        if listed.categories:
            category = reading.field(annotation, where, int, "category_id")
            if category not in listed.categories:
                what = f"key 'category_id' is {category}, which 'categories' does not list"
                raise EntryFault("no category", f"{where}: {what}")
            named.append(listed.categories[category])
        boxes.append(reading.box(reading.field(annotation, where, list, "bbox"), where))
        dropped: list[str] = []
        masks.append(_mask(annotation.get("segmentation"), image, where, dropped))
        if dropped:
            changes.append(_changed_mask(ref, ann_id, dropped, listed.path))
    if ref.ann_ids and not boxes:
        raise EntryFault("crowd only", f"{listed.path}: ref_id {ref.ref_id}: every annotation of it is a crowd")
    return Region(
        id=str(ref.ref_id),
        split=ref.split,
        boxes=tuple(boxes),
        expressions=ref.expressions,
        mask=masks[0] if len(masks) == 1 else union(masks, image.height, image.width),
        category=named[0] if len(set(named)) == 1 else None,
    )


def _annotation(ann_id: AnnotationId, ref: Ref, listed: _Instances, refs_path: Path) -> dict[str, Any]:
    """The annotation of that id; several of other contents are none, and nobody can tell which was meant."""
    found: list[dict[str, Any]] = listed.annotations.get(ann_id)
    if not found:
        where = f"{refs_path}: ref_id {ref.ref_id}"
        raise EntryFault("no annotation", f"{where}: key 'ann_id' is {ann_id}, which {listed.path} does not list")
    other = next((annotation for annotation in found if annotation != found[0]), None)
    if other is not None:
        boxes = " and ".join(f"bbox {reprlib.repr(one.get('bbox'))}" for one in (found[0], other))
        where = f"{listed.path}: annotation {ann_id} of ref_id {ref.ref_id}"
        raise EntryFault("duplicate id", f"{where} occurs twice, with other contents: {boxes}")
    return found[0]


def _changed_mask(ref: Ref, ann_id: AnnotationId, dropped: list[str], path: Path) -> Fault:
    reason, region = "; ".join(dropped), str(ref.ref_id)
    takes = (("mask", 1),)
    return Fault("mask", str(ann_id), ref.split, "polygon", reason, str(path), takes, region, changed=True)


def _mask(segmentation: Any, image: _Image, where: str, dropped: list[str]) -> Rle:
    """A mask of COCO, or ReferIt's list of run lengths: these bring a size of their own, for the builder to compare."""
    if not isinstance(segmentation, list) or not segmentation or not isinstance(segmentation[0], dict):
        return to_rle(segmentation, image.height, image.width, where, dropped)
    size = reading.field(segmentation[0], f"{where}: segmentation", list, "size")
    if len(size) != 2:
        raise EntryFault("mask", f"{where}: key 'size' of the mask is {reprlib.repr(size)}, expected [height, width]")
    height, width = (reading.side({"size": side}, where, "size") for side in size)
    parts = [to_rle(part, height, width, where) for part in segmentation]
    return union(parts, height, width)
