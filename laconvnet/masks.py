"""Masks out of COCO's compressed run lengths, which may be malformed. This module knows pycocotools only."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Mask = NDArray[np.uint8]

# A run is written in characters "0" to "o", and one from "P" on announces another of the same run: pycocotools reads
# on behind a text that ends in such a one.
_COUNTS = re.compile(r"(?:[0-o]*[0-O])?")


def decode(rle: Any, height: int, width: int) -> Mask:
    """The mask (height, width), 0 or 1; raises ValueError for what is no mask of an image of these sides."""
    counts = rle.get("counts") if isinstance(rle, dict) and rle.get("size") == [height, width] else None
    if not isinstance(counts, str) or not _COUNTS.fullmatch(counts):
        raise ValueError(f"holds no mask of a {width}x{height} image")
    try:
        return np.asarray(coco_mask.decode({"size": [height, width], "counts": counts}), np.uint8)
    except ValueError as error:
        raise ValueError(f"a mask of {width}x{height} pixels whose runs do not fit it ({error})") from error
