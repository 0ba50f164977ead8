"""What tells the content of an image: the checksum of its file and of its pixels, and a hash that copies nearly share.

The difference hash (dHash, Krawetz 2013) of 256 bits tells of 16 x 17 equal cells, row by row, whether a cell is
lighter than the one to its left. It hardly changes with the encoding, the size, or the colour of an image.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash

from laconvnet.shards.build.jpeg import Pixels
from laconvnet.shards.format.pictures import Content

_ROWS, _COLUMNS = 16, 17
_LUMA = (299, 587, 114)  # thousandths of R, G and B (Rec. 601), so that all sums are whole and the same on any machine
_LIGHTER = 3  # gray levels of 256: what an encoder makes of a plain ground is less


def file_content(data: bytes) -> Content:
    """What the bytes of a file tell without decoding."""
    return Content(len(data), xxhash.xxh3_64_intdigest(data))


def image_content(file: Content, pixels: Pixels) -> Content:
    """The same and what the pixels (H, W, 3) tell, which are RGB and upright."""
    height, width, _ = pixels.shape
    digest = xxhash.xxh3_64(f"{width}x{height}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return dataclasses.replace(file, pixels_xxh3=digest.intdigest(), dhash=difference_hash(pixels))


def difference_hash(pixels: Pixels) -> bytes | None:
    """The 32 bytes of the hash of RGB pixels (H, W, 3); None where they are fewer than cells."""
    height, width, _ = pixels.shape
    if height < _ROWS or width < _COLUMNS:
        return None
    rows, columns = (np.arange(count + 1) * side // count for count, side in ((_ROWS, height), (_COLUMNS, width)))
    wide: Any = np.uint16 if height <= _ROWS * 256 else np.uint32  # what a column of a cell adds up to
    sums = np.empty((_ROWS, 3 * width), wide)
    lines = pixels.reshape(height, -1)
    for into, (first, end) in zip(sums, pairwise(rows.tolist()), strict=True):
        np.add.reduce(lines[first:end], 0, wide, into)
    colours = np.add.reduceat(sums.reshape(_ROWS, width, 3), columns[:-1], axis=1, dtype=np.int64)
    cells = colours @ np.array(_LUMA) / (np.diff(rows)[:, None] * np.diff(columns) * sum(_LUMA))
    return np.packbits(np.diff(cells, axis=1) > _LIGHTER).tobytes()
