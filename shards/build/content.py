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
# A plain ground with little on it has a hash like any other such ground, and so has a smooth gradient: neither is told
# by it. Of 256 pairs of neighbours so many must differ in lightness, and of 480 pairs of neighbouring bits so many must
# differ. docs/datasets.md has the command that measures both on photographs and drawn scenes.
LEAST_CONTRAST, LEAST_CHANGES = 144, 80


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
    steps = lightness_steps(image)
    bits = steps > _LIGHTER
    flat = contrast(steps) < LEAST_CONTRAST or changes(bits) < LEAST_CHANGES
    return None if flat else np.packbits(bits).tobytes()


def lightness_steps(image: Image.Image) -> NDArray[np.int16]:
    """How much lighter each cell is than the one to its left (16, 16)."""
    cells = np.asarray(image.convert("L").resize((_COLUMNS, _ROWS), Image.Resampling.BOX), np.int16)
    return np.diff(cells, axis=1)


def contrast(steps: NDArray[np.int16]) -> int:
    """How many neighbours differ in lightness, of 256."""
    return int((abs(steps) > _LIGHTER).sum())


def changes(bits: NDArray[np.bool_]) -> int:
    """How many bits (16, 16) differ from the one to their left, and from the one above, of 480."""
    return int((bits[:, 1:] != bits[:, :-1]).sum() + (bits[1:] != bits[:-1]).sum())
