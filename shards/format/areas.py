"""COCO's three sizes of an object, by its area in pixels of the stored image.

COCO measures the mask, this the box around all boxes: not every set has masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES = ("small", "medium", "large")
BORDERS = (32**2, 96**2)


def size_classes(w: NDArray[Any], h: NDArray[Any]) -> NDArray[np.int64]:
    """The place in `SIZES` of each box (N,) of these sides, in pixels; -1 where there is none."""
    area = np.asarray(w, np.float64) * h
    return np.where(np.isnan(area), -1, np.digitize(area, BORDERS))
