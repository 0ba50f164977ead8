"""What tells the content of an image: the checksum of its file and of its pixels, and a hash that copies nearly share.

The difference hash (dHash, Krawetz 2013) of 256 bits tells of 16 x 17 equal cells, row by row, whether a cell is
lighter than the one to its left. It hardly changes with the encoding, the size, or the colour of an image.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from laconvnet.shards.build.jpeg import Pixels
from laconvnet.shards.format.pictures import Content

_ROWS, _COLUMNS = 16, 17
# Thousandths of R, G and B (Rec. 601), so that all sums are whole and the same on any machine.
_LUMA = np.array((299, 587, 114))
_LIGHTER = 3  # gray levels of 256: what an encoder makes of a plain ground is less
_SIZES = 256  # of images, whose cells are remembered


def file_content(data: bytes) -> Content:
    """What the bytes of a file tell without decoding."""
    return Content(len(data), xxhash.xxh3_64_intdigest(data))


def image_content(file: Content, pixels: Pixels) -> Content:
    """The same and what the pixels (H, W, 3) tell, which are RGB and upright."""
    height, width, _ = pixels.shape
    digest = xxhash.xxh3_64(f"{width}x{height}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return Content(file.file_bytes, file.file_xxh3, digest.intdigest(), difference_hash(pixels))


def difference_hash(pixels: Pixels) -> bytes | None:
    """The 32 bytes of the hash of RGB pixels (H, W, 3); None where they are fewer than cells."""
    height, width, _ = pixels.shape
    if height < _ROWS or width < _COLUMNS:
        return None
    rows, columns, weights = _grid(height, width)
    colours = np.add.reduceat(_row_sums(pixels, rows), columns, axis=1, dtype=np.int64)
    cells = colours @ _LUMA / weights
    return np.packbits(cells[:, 1:] - cells[:, :-1] > _LIGHTER).tobytes()


@lru_cache(_SIZES)
def _grid(height: int, width: int) -> tuple[list[int], NDArray[np.int64], NDArray[np.int64]]:
    """Of the cells: the first pixels of rows (17) and columns (17), and what to divide their sums by (16, 17)."""
    rows, columns = (np.arange(count + 1) * side // count for count, side in ((_ROWS, height), (_COLUMNS, width)))
    return rows.tolist(), columns[:-1], np.diff(rows)[:, None] * np.diff(columns) * _LUMA.sum()


def _row_sums(pixels: Pixels, rows: list[int]) -> NDArray[Any]:
    """The sums (16, W, 3) of pixels over each row of cells."""
    height, width, _ = pixels.shape
    wide: Any = np.uint16 if height <= _ROWS * 256 else np.uint32  # what a column of a cell adds up to
    if height % _ROWS == 0:  # of 480 and 640, which most have: one call in place of 16
        whole: NDArray[Any] = np.add.reduce(pixels.reshape(_ROWS, -1, 3 * width), 1, wide)
        return whole.reshape(_ROWS, width, 3)
    sums = np.empty((_ROWS, 3 * width), wide)
    lines = pixels.reshape(height, -1)
    for into, (first, end) in zip(sums, pairwise(rows), strict=True):
        np.add.reduce(lines[first:end], 0, wide, into)
    return sums.reshape(_ROWS, width, 3)
