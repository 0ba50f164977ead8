"""gRefCOCO in its authors' layout (henghuiding/gRefCOCO; Liu, Ding and Jiang 2023): REFER's, with groups of referents.

``grefcoco/grefs(unc).json`` is a list of refs like those of REFER, but ``ann_id`` is a list: an expression may speak of
several objects, and of none where it is [-1]. Such a ref becomes one region: its boxes are those of the objects, its
mask the union of theirs; a ref of nothing has no box and an empty mask. ``instances.json`` lies beside it and the
images are those of COCO train2014, in the authors' ``images/train2014`` or where REFER has them.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.shards.errors import InputError
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.refer import PICTURES, Refer

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

    def load(self, path: Path) -> list[dict[str, Any]]:
        """The refs of such a file; ``ann_ids`` is empty for one that speaks of nothing. Raises InputError."""
        refs = []
        for entry in reading.read_items(path):
            ref_id = reading.field(entry, f"{path}: ref", int, "ref_id")
            where = f"{path}: ref_id {ref_id}"
            refs.append(
                {
                    "ref_id": ref_id,
                    "image_id": reading.field(entry, where, int, "image_id"),
                    "split": reading.field(entry, where, str, "split"),
                    "ann_ids": _ann_ids(entry, where),
                    "sentences": [
                        {
                            "sent_id": reading.field(sentence, where, int, "sent_id"),
                            "sent": reading.field(sentence, where, str, "sent"),
                        }
                        for sentence in reading.objects(entry, where, "sentences")
                    ],
                }
            )
        return refs

    def image_folder(self, root: Path) -> Path:
        return root / _PICTURES if (root / _PICTURES).is_dir() else root / PICTURES


GREFCOCO = GRefer(
    "grefcoco",
    "gRefCOCO: 278,232 expressions for none, one or several objects in 19,994 COCO images",
    "unc",
)


def _ann_ids(entry: dict[str, Any], where: str) -> list[int]:
    """The annotations of a ref, each once; -1 alone stands for none."""
    value = entry.get("ann_id")
    ids = value if isinstance(value, list) else [value]
    if ids == [-1]:
        return []
    if not ids or any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in ids):
        raise InputError(
            f"{where}: key 'ann_id' is {reprlib.repr(value)}, expected a list of annotation ids, or [-1] for no object"
        )
    return list(dict.fromkeys(ids))
