"""A record made to fit its decoded image, and the example rows that follow from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from laconvnet.shards.format.ledger import region_counts
from laconvnet.shards.format.raw import Fault
from laconvnet.shards.format.record import Box, Record, Region

# COCO gives boxes to a hundredth of a pixel: a sum that is larger than a side by less is that of a box inside.
_ROUNDING = 0.005
NO_BOX: Box = (math.nan, math.nan, math.nan, math.nan)


def fit_record(record: Record, width: int, height: int, file: str) -> tuple[Record, list[Fault]]:
    """The record with the true size, overhanging boxes clipped, and without regions that do not fit the image.

    Also returns the faults: each region dropped, with a box that is not positive or lies wholly outside, or with a
    mask of another size, and each box that was clipped. ``file`` is that of the image. A region goes as a whole: with
    one of its boxes missing its expressions would speak of something else. A region without any box (an expression
    without a target) stays.
    """
    kept: list[Region] = []
    faults: list[Fault] = []
    for region in record.regions:
        misfit = _misfit(region, width, height)
        if misfit is None:
            boxes = tuple(_clipped(box, width, height) for box in region.boxes)
            if boxes == region.boxes:  # of nearly all
                kept.append(region)
                continue
            kept.append(dataclasses.replace(region, boxes=boxes))
            faults += _clippings(region, boxes, (width, height), file)
        else:
            takes = tuple((kind, number) for (_, kind), number in region_counts(region).items())
            faults.append(Fault("region", region.id, region.split, *misfit, file, takes, region.id))
    return dataclasses.replace(record, width=width, height=height, regions=tuple(kept)), faults


def _clippings(region: Region, boxes: tuple[Box, ...], size: tuple[int, int], file: str) -> Iterator[Fault]:
    for given, stored in zip(region.boxes, boxes, strict=True):
        if max(abs(before - after) for before, after in zip(given, stored, strict=True)) > _ROUNDING:
            reason = f"box {list(given)} overhangs the image of {size[0]}x{size[1]}, it is clipped to {list(stored)}"
            takes = (("box", 1),)
            yield Fault("box", region.id, region.split, "clipped", reason, file, takes, region.id, changed=True)


def _misfit(region: Region, width: int, height: int) -> tuple[str, str] | None:
    """Cause and reason."""
    for box in region.boxes:
        x, y, w, h = box
        if not all(math.isfinite(value) for value in box):
            return "box", f"box {list(box)} is not finite"
        if w <= 0 or h <= 0:
            return "box", f"box {list(box)} has no area"
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            return "box", f"box {list(box)} lies outside the image of {width}x{height}"
    if region.mask is not None and list(region.mask["size"]) != [height, width]:
        given = list(region.mask["size"])
        return "mask", f"mask of size {given} [height, width] on an image of {width}x{height}"
    return None


def _clipped(box: Box, width: int, height: int) -> Box:
    x, y, w, h = box
    if x >= 0 and y >= 0 and x + w <= width and y + h <= height:
        return box  # exactly as annotated: no rounding of what fits
    left, top = max(x, 0), max(y, 0)
    return (left, top, min(x + w, width) - left, min(y + h, height) - top)


def example_rows(record: Record, sample: int) -> list[dict[str, Any]]:
    """The rows of examples.parquet for one image: regions x expressions in order, then questions."""
    rows = []
    for number, region in enumerate(record.regions):
        x, y, w, h = region.box if region.boxes else NO_BOX
        for expression in region.expressions:
            rows.append(
                _row(sample, "expression", region.split, expression.id, expression.text, x, y, w, h)
                | {"region": number, "has_mask": region.mask is not None}
            )
    for question in record.questions:
        rows.append(
            _row(sample, "question", question.split, question.id, question.text, *NO_BOX)
            | {"answer": question.answer, "answers": list(question.answers), "family": question.family}
        )
    return rows


def _row(
    sample: int, kind: str, split: str, item_id: str, text: str, x: float, y: float, w: float, h: float
) -> dict[str, Any]:
    return {
        "sample": sample,
        "kind": kind,
        "split": split,
        "region": -1,
        "item_id": item_id,
        "text": text,
        "answer": None,
        "answers": [],
        "family": None,
        "x": x,
        "y": y,
        "w": w,
        "h": h,
        "has_mask": False,
    }
