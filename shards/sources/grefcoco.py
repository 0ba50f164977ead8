"""gRefCOCO in its authors' layout (henghuiding/gRefCOCO; Liu, Ding and Jiang 2023): REFER's, with groups of referents.

``grefcoco/grefs(unc).json`` is a list of refs like those of REFER, but ``ann_id`` is a list: an expression may speak of
several objects, and of none where it is [-1]. Such a ref becomes one region: its boxes are those of the objects, its
mask the union of theirs; a ref of nothing has no box and an empty mask. ``instances.json`` lies beside it and the
images are those of COCO train2014, in the authors' ``images/train2014`` or where REFER has them.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.shards.sources import reading
from laconvnet.shards.sources.faults import EntryFault
from laconvnet.shards.sources.refer import PICTURES, Refer
from laconvnet.shards.sources.refs import AnnotationId

_PICTURES = Path("images", "train2014")


@dataclass(frozen=True, slots=True)
class GRefer(Refer):
    """The data set of generalised expressions."""

    @property
    def files(self) -> tuple[str, ...]:
        return (
            f"{self.name}/grefs(PARTITION).json: groups of referents and sentences; --partition, "
            f"{self.default_partition} by default",
            f"{self.name}/instances.json: boxes, masks, categories and image sizes",
            f"{_PICTURES}/*.jpg or {PICTURES}/*.jpg: the images of COCO train2014, or their folder as --images",
        )

    def refs_name(self, partition: str) -> str:
        return f"grefs({partition}).json"

    def load(self, path: Path) -> Iterable[Any]:
        return reading.read_items(path)

    def check_ref(self, ref: Any, where: str) -> tuple[AnnotationId, ...]:
        for key in ("ref_id", "image_id"):
            reading.field(ref, where, int, key)
        reading.field(ref, where, str, "split")
        reading.field(ref, where, list, "sentences")
        return _ann_ids(ref, where)

    def image_folder(self, root: Path) -> Path:
        return root / _PICTURES if (root / _PICTURES).is_dir() else root / PICTURES


GREFCOCO = GRefer(
    "grefcoco",
    "gRefCOCO: 278,232 expressions for none, one or several objects in 19,994 COCO images",
    "unc",
)


def _ann_ids(entry: dict[str, Any], where: str) -> tuple[AnnotationId, ...]:
    """The annotations of a ref, each once; -1 alone stands for none, which is a ref of nothing."""
    value = entry.get("ann_id")
    ids = value if isinstance(value, list) else [value]
    if ids == [-1]:
        return ()
    if not ids or any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in ids):
        given = f"key 'ann_id' is {reprlib.repr(value)}"
        raise EntryFault("field", f"{where}: {given}, expected a list of annotation ids, or [-1] for no object")
    return tuple(dict.fromkeys(ids))
