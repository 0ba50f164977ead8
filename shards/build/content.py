"""What tells the content of an image: the checksum of its file and of its pixels, and a hash that copies nearly share.

The difference hash (dHash, Krawetz 2013) of 256 bits tells of 16 x 17 equal cells, row by row, whether a cell is
lighter than the one to its left. It hardly changes with the encoding, the size, or the colour of an image.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from laconvnet.shards.build.jpeg import Pixels
from laconvnet.shards.format.pictures import Content

_ROWS, _COLUMNS = 16, 17
# Gray levels of 256. What an encoder makes of a plain ground is less: it would be so many bits of chance.
_LIGHTER = 2
# Bits that differ from the one to their left or above, of 480. With fewer it is a plain ground with little on it: such
# hashes are alike whatever the images show. docs/datasets.md has what photographs and drawn scenes have.
LEAST_CHANGES = 100


def file_content(data: bytes) -> Content:
    """What the bytes of a file tell without decoding."""
    return Content(len(data), xxhash.xxh3_64_intdigest(data))


def image_content(file: Content, image: Image.Image | Pixels) -> Content:
    """The same and what its pixels tell: upright, of mode L or RGB, or as an array (H, W, 3)."""
    if isinstance(image, Image.Image):
        shown, pixels = image, np.asarray(image.convert("RGB"))
    else:
        shown, pixels = Image.fromarray(image), image
    return dataclasses.replace(file, pixels_xxh3=_pixels_xxh3(pixels), dhash=difference_hash(shown))


def _pixels_xxh3(pixels: Pixels) -> int:
    height, width, _ = pixels.shape
    digest = xxhash.xxh3_64(f"{width}x{height}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.intdigest()


def difference_hash(image: Image.Image) -> bytes | None:
    """The 32 bytes of the hash of an image of mode L or RGB; None for one that is too flat to be told by it."""
    cells = np.asarray(image.convert("L").resize((_COLUMNS, _ROWS), Image.Resampling.BOX), np.int16)
    bits = np.diff(cells, axis=1) > _LIGHTER
    return None if _changes(bits) < LEAST_CHANGES else np.packbits(bits).tobytes()


def _changes(bits: NDArray[np.bool_]) -> int:
    return int((bits[:, 1:] != bits[:, :-1]).sum() + (bits[1:] != bits[:-1]).sum())
