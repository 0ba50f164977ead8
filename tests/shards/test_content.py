"""The difference hash, to the bit: sets that exist hold it, and images are compared by it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from laconvnet.shards.build.content import difference_hash

LUMA = np.array((299, 587, 114))
SIZES = [
    *((16, 17), (16, 18), (17, 17), (31, 35), (33, 300), (300, 33)),  # height, width
    *((480, 640), (427, 640), (640, 427), (375, 500), (333, 481)),
    *((16, 5000), (4096, 17), (4097, 19), (4111, 17), (4112, 18), (9001, 17)),  # sums beyond 16 bits, and just not
]


def by_definition(pixels: NDArray[np.uint8]) -> bytes:
    """Cell by cell, in whole numbers."""
    height, width, _ = pixels.shape
    rows, columns = (
        [count * side // cells for count in range(cells + 1)] for side, cells in ((height, 16), (width, 17))
    )
    gray = [
        [
            int(pixels[top:bottom, left:right].sum((0, 1), np.int64) @ LUMA) / ((bottom - top) * (right - left) * 1000)
            for left, right in pairwise(columns)
        ]
        for top, bottom in pairwise(rows)
    ]
    return np.packbits(np.diff(gray, axis=1) > 3).tobytes()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_hash_is_that_of_its_definition_for_an_image_of_any_size(height: int, width: int) -> None:
    draw = np.random.default_rng(height * width)
    noise = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    soft = np.linspace(0, 250, width)[None, :, None] + draw.integers(0, 5, (height, width, 3))
    white = np.full((height, width, 3), 255, np.uint8)
    white[:, width // 2 :] = 251  # the step of one gray level more than the least that counts
    gray = noise[..., :1].repeat(3, 2)
    for pixels in (noise, soft.astype(np.uint8), white, white[:, ::-1], gray, noise[::-1]):
        assert difference_hash(pixels) == by_definition(pixels)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (15, 17), (16, 16)])
def test_an_image_of_fewer_pixels_than_cells_has_none(height: int, width: int) -> None:
    assert difference_hash(np.zeros((height, width, 3), np.uint8)) is None
