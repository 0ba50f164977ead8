"""The border of a mask as an SVG path, of a length that is bounded whatever the mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laconvnet.masks import Mask

_SIDES = (480, 240, 120, 60, 30)  # pixels that the longer side of a mask is looked at with: as fine as fits
_LONGEST = 16_000  # characters; the last side fits whatever the mask


@dataclass(frozen=True, slots=True)
class Outline:
    """A path in steps of a grid; a step is so many pixels of the image, across and down."""

    path: str
    across: float
    down: float


def outline(mask: Mask) -> Outline:
    """The border of a mask (height, width): where a cell that has some of it meets one that has none."""
    height, width = mask.shape
    for side in _SIDES:
        scale = min(1.0, side / max(height, width))
        columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
        small = Image.fromarray(mask * np.uint8(255)).resize((columns, rows), Image.Resampling.BOX)
        cells = np.pad(np.asarray(small) > 0, 1)
        across = [f"M{start} {line}h{length}" for line, start, length in _runs(cells[1:, 1:-1] != cells[:-1, 1:-1])]
        down = [f"M{line} {start}v{length}" for line, start, length in _runs((cells[1:-1, 1:] != cells[1:-1, :-1]).T)]
        path = "".join((*across, *down))
        if len(path) <= _LONGEST:
            break
    return Outline(path, width / columns, height / rows)


def _runs(edges: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """Line, start and length of each run of edges (lines, places)."""
    steps = np.diff(edges.astype(np.int8), axis=1, prepend=0, append=0)
    starts, ends = np.argwhere(steps == 1).tolist(), np.argwhere(steps == -1)[:, 1].tolist()
    for (line, start), end in zip(starts, ends, strict=True):
        yield line, start, end - start
