"""The sample record: everything known about one image, as one JSON object beside its bytes.

A record is what a source yields, what a shard stores as ``<key>.json`` and what every later room reads.
Boxes are (x, y, w, h) in pixels of the stored image, the origin at its upper left corner.
Masks are COCO run-length encodings with ASCII counts: ``{"size": [height, width], "counts": str}``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from laconvnet.shards.errors import InputError

SCHEMA_VERSION = 1
_NOT_OF_KEYS = re.compile(r"[^0-9A-Za-z_+-]")


def key(source: str, picture_id: str) -> str:
    """The key of an image: no dot and no slash, which webdataset and DALI split at."""
    return _NOT_OF_KEYS.sub("_", f"{source}-{picture_id}")


Box = tuple[float, float, float, float]
Rle = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Expression:
    """A phrase that refers to one region of an image."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Region:
    """A referent: its boxes (several where a phrase names several things), mask and expressions.

    The split belongs to the region, not to the image: RefCOCOg (google) splits by object.
    """

    id: str
    split: str
    boxes: tuple[Box, ...]
    expressions: tuple[Expression, ...] = ()
    mask: Rle | None = None
    category: str | None = None
    attributes: tuple[str, ...] = ()

    @property
    def box(self) -> Box:
        """The box around all boxes (the merged box of Flickr30k Entities' protocol)."""
        left = min(x for x, _, _, _ in self.boxes)
        top = min(y for _, y, _, _ in self.boxes)
        right = max(x + w for x, _, w, _ in self.boxes)
        bottom = max(y + h for _, y, _, h in self.boxes)
        return (left, top, right - left, bottom - top)


@dataclass(frozen=True, slots=True)
class Question:
    """A question on an image; ``answer`` is None where the data set hides it (test splits)."""

    id: str
    split: str
    text: str
    answer: str | None = None
    answers: tuple[str, ...] = ()
    family: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One image of one data set with all its annotations."""

    source: str
    picture_id: str
    file_name: str
    width: int
    height: int
    licence: str
    regions: tuple[Region, ...] = ()
    questions: tuple[Question, ...] = ()
    coco_id: int | None = None

    @property
    def key(self) -> str:
        """The name of the sample in its shard."""
        return key(self.source, self.picture_id)

    @property
    def splits(self) -> tuple[str, ...]:
        """Every split that some region or question of this image belongs to, sorted."""
        return tuple(sorted({each.split for each in self.regions} | {each.split for each in self.questions}))

    def to_json(self) -> bytes:
        """The canonical bytes: sorted keys, no spaces, so that equal records are equal files."""
        return _CANONICAL.encode({"version": SCHEMA_VERSION, **_shallow(self)}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Record:
        """Read back what `to_json` wrote; raises InputError for another schema version or shape."""
        try:
            fields = json.loads(data)
            version = fields.pop("version")
            if version != SCHEMA_VERSION:
                raise InputError(f"record: version {version!r}, expected {SCHEMA_VERSION}; build the shards again")
            fields["regions"] = tuple(_region(region) for region in fields["regions"])
            fields["questions"] = tuple(
                Question(**{**question, "answers": tuple(question["answers"])}) for question in fields["questions"]
            )
            return cls(**fields)
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise InputError(f"record: not a sample record of this schema ({error}); build the shards again") from error


def _shallow(part: Any) -> dict[str, Any]:
    # dataclasses.asdict copies all the way down, which costs several times the encoding itself.
    return {name: getattr(part, name) for name in part.__slots__}


_CANONICAL = json.JSONEncoder(default=_shallow, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _region(fields: dict[str, Any]) -> Region:
    return Region(
        **{
            **fields,
            "boxes": tuple(tuple(box) for box in fields["boxes"]),
            "expressions": tuple(Expression(**expression) for expression in fields["expressions"]),
            "attributes": tuple(fields["attributes"]),
        }
    )
