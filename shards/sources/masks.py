"""COCO segmentations, in whichever of their three forms, and masks of pixels, as one run-length mask."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from laconvnet.files import is_unreadable
from laconvnet.images import opened, read_bytes
from laconvnet.shards.format.record import Box, Rle
from laconvnet.shards.sources.faults import EntryFault
from laconvnet.shards.sources.reading import NO_FILE, is_number

# Originals have some ten parts and an outline a few times around the image. Merging parts takes the square of their
# number, and pycocotools walks an outline in steps of a fifth of a pixel that it keeps.
_MAX_PARTS = 1000
_MAX_OUTLINE = 100  # times the longer side


def to_rle(segmentation: Any, height: int, width: int, where: str, dropped: list[str] | None = None) -> Rle:
    """The compressed mask with ASCII counts of polygons, plain run lengths or a compressed mask.

    Of several polygons, those of fewer than three points have no area and are left out: ``dropped`` is told of each.

    pycocotools does not check what it is given and writes beyond its buffers for run lengths that do not add up, so
    every form is checked here. Raises EntryFault for one that is no mask of a height x width image.
    """
    if isinstance(segmentation, dict):
        rle = coco_mask.frPyObjects(
            {"size": [height, width], "counts": _counts(segmentation, height, width, where)}, height, width
        )
    elif isinstance(segmentation, list) and segmentation:
        if len(segmentation) > _MAX_PARTS:
            raise EntryFault(
                "polygon", f"{where}: segmentation of {len(segmentation)} polygons, expected at most {_MAX_PARTS}"
            )
        segmentation = _with_area(segmentation, where, [] if dropped is None else dropped)
        for polygon in segmentation:
            _check_polygon(polygon, height, width, where)
        longest = _MAX_OUTLINE * max(height, width)
        if sum(map(_outline, segmentation)) > longest:
            raise EntryFault(
                "polygon", f"{where}: polygons with an outline of more than {longest} pixels; get the file again"
            )
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    else:
        raise EntryFault(
            "polygon", f"{where}: segmentation {reprlib.repr(segmentation)}, expected polygons or run lengths"
        )
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def union(masks: Sequence[Rle], height: int, width: int) -> Rle:
    """The union of masks of a height x width image, made by `to_rle`; empty for no mask."""
    rle = (
        coco_mask.merge(list(masks))
        if masks
        else coco_mask.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
    )
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def of_pixels(pixels: NDArray[Any]) -> Rle:
    """The mask of pixels (height, width): all that are not zero."""
    rle = coco_mask.encode(np.asfortranarray(pixels != 0, np.uint8))
    return {"size": list(pixels.shape), "counts": rle["counts"].decode("ascii")}


def of_png(path: Path, where: str) -> Rle:
    """The mask of a PNG: its pixels that are not black, or of a palette those that are not its first colour.

    Raises EntryFault where the file is absent, no PNG, beyond the limits of `laconvnet.images`, or has an alpha
    channel: whether that or the colours are the mask nobody can tell.
    """
    try:
        with opened(read_bytes(path)) as image:
            if image.format != "PNG" or "A" in image.mode:
                told = f"{image.format} of mode {image.mode}"
                raise EntryFault("mask", f"{where}: mask {path} is a {told}, expected a PNG without an alpha channel")
            pixels: NDArray[Any] = np.asarray(image)
    except EntryFault:
        raise
    except Exception as error:  # decoders raise nearly anything on malformed bytes
        if isinstance(error, OSError) and error.errno in NO_FILE:
            raise EntryFault("no file", f"{where}: mask {path}: {error.strerror}") from error
        if is_unreadable(error):
            raise
        raise EntryFault("mask", f"{where}: mask {path} cannot be decoded: {type(error).__name__}: {error}") from error
    return of_pixels(pixels if pixels.ndim == 2 else pixels.max(axis=2))


def box_of(mask: Rle, where: str) -> Box:
    """The box around a mask, x, y, w, h; raises EntryFault for a mask of nothing."""
    x, y, w, h = coco_mask.toBbox(mask).tolist()
    if not w or not h:
        raise EntryFault("mask", f"{where}: no pixel of the mask is set, and there is no box")
    return (x, y, w, h)


def _with_area(polygons: list[Any], where: str, dropped: list[str]) -> list[Any]:
    """The polygons without points and lines, which pycocotools takes for boxes; all where nothing else is there."""
    flat = [isinstance(one, list) and len(one) in (0, 2, 4) and all(map(is_number, one)) for one in polygons]
    if all(flat):
        return polygons
    dropped += [
        f"{where}: polygon {polygon} has fewer than three points and is left out of the mask"
        for polygon, is_flat in zip(polygons, flat, strict=True)
        if is_flat
    ]
    return [polygon for polygon, is_flat in zip(polygons, flat, strict=True) if not is_flat]


def _check_polygon(polygon: Any, height: int, width: int, where: str) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all(map(is_number, polygon)):
        raise EntryFault(
            "polygon", f"{where}: polygon {reprlib.repr(polygon)}, expected x, y, x, y, ... of three points or more"
        )
    # pycocotools walks every edge pixel by pixel: a corner a billion pixels away is a billion steps and their memory.
    limit = 2 * max(height, width)
    if any(abs(value) > limit for value in polygon):
        raise EntryFault(
            "polygon", f"{where}: polygon {reprlib.repr(polygon)} lies far outside the {width}x{height} image"
        )


def _outline(polygon: list[float]) -> float:
    """The steps around a polygon, as many as the longer side of each of its edges has pixels."""
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    edges = zip(corners, corners[1:] + corners[:1], strict=True)
    return sum(max(abs(x - left), abs(y - top)) for (left, top), (x, y) in edges)


def _counts(segmentation: dict[str, Any], height: int, width: int, where: str) -> list[int]:
    if segmentation.get("size") != [height, width]:
        raise EntryFault(
            "mask",
            f"{where}: key 'size' of the mask is {reprlib.repr(segmentation.get('size'))}, "
            f"expected [{height}, {width}] as the image",
        )
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _decompress(counts)
    if (
        not isinstance(counts, list)
        or not all(isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in counts)
        or sum(counts) != height * width
    ):
        raise EntryFault("mask", f"{where}: key 'counts' of the mask does not add up to {width}x{height} pixels")
    return counts


def _decompress(counts: str) -> list[int]:
    """Run lengths of a compressed mask: 5 bits a character from ASCII 48, low bits first, 32 set while more follow.

    From the fourth run on, a run is stored as its difference to the one before the last (pycocotools' maskApi).
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32 and shift < 60:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
