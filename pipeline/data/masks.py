"""Masks: out of the records' run lengths, and back into them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from laconvnet import masks
from laconvnet.masks import Mask as Mask
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format.record import Record, Rle


def of_region(record: Record, region: int) -> Mask:
    """The mask (height, width) of a region; raises ConfigError where the record has none that fits its image."""
    found = record.regions[region].mask if 0 <= region < len(record.regions) else None
    try:
        return decode(found, record.height, record.width)
    except ConfigError as error:
        raise ConfigError(f"{record.key}: region {region}: {error}; verify the set and build it again") from error


def decode(rle: Any, height: int, width: int) -> Mask:
    """The mask (height, width), 0 or 1; raises ConfigError for what is no mask of an image of these sides."""
    try:
        return masks.decode(rle, height, width)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def encode(mask: NDArray[Any]) -> Rle:
    """COCO's compressed run lengths of a mask (height, width) of truth values, ready for JSON."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
