"""Images of scenes: antialiased shapes on a dark, slightly noisy ground, and their outlines as polygons."""

from __future__ import annotations

import io
import math
import random
import struct
import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laconvnet.shards.synthetic.scene import COLOURS, Scene, Shape

_CORNERS = 16  # of the polygon that stands for a circle: 97 % of its area, its extents exactly
_SUBSAMPLES = 8  # a side of the grid inside one pixel
_GROUND = (30, 60)
_NOISE = 9
_JITTER = 8


def outline(shape: Shape) -> list[float]:
    """The polygon [x0, y0, x1, y1, ...] of a shape in pixels, as COCO's `segmentation` writes it."""
    points: list[float] = []
    for x, y in _corners(shape.shape, shape.extent):
        points += (round(shape.x + x, 2), round(shape.y + y, 2))
    return points


@cache
def outline_area(shape: str, extent: int) -> float:
    """The area in square pixels of a shape's polygon (the shoelace formula)."""
    corners = _corners(shape, extent)
    twice = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True))
    return round(abs(twice) / 2, 2)


def paint(scene: Scene, rng: random.Random) -> NDArray[np.uint8]:
    """The image of a scene, (side, side, 3) RGB."""
    side = scene.side
    noise = np.frombuffer(rng.randbytes(side * side), np.uint8).reshape(side, side) % _NOISE
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = (noise + np.uint8(rng.randint(*_GROUND)))[..., None]
    for shape in scene.shapes:
        patch = canvas[shape.y : shape.y + shape.extent, shape.x : shape.x + shape.extent]
        colour = [channel + rng.randint(-_JITTER, _JITTER) for channel in COLOURS[shape.colour]]
        blended = patch + (np.array(colour, np.float32) - patch) * coverage(shape.shape, shape.extent)
        patch[:] = np.rint(blended)
    return canvas


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """JPEG bytes of (height, width, 3) RGB at quality 95.

    With full colour resolution: halved chroma would wash out nine-pixel shapes.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def png(image: NDArray[np.uint8]) -> bytes:
    """PNG bytes of (height, width, 3) RGB, rows unfiltered.

    Pillow tries every filter on every row, which takes four times as long and gains nothing on flat shapes in noise.
    """
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = image.reshape(height, -1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 1)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


@cache
def coverage(shape: str, extent: int) -> NDArray[np.float32]:
    """The share of every pixel that a shape covers, (extent, extent, 1) in [0, 1]."""
    fine = (np.arange(extent * _SUBSAMPLES) + 0.5) / (extent * _SUBSAMPLES)
    x, y = fine[None, :], fine[:, None]
    inside = {
        "circle": (x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.25,
        "square": (x >= 0) & (y >= 0),
        "triangle": np.abs(x - 0.5) <= y / 2,
    }[shape]
    parts = inside.reshape(extent, _SUBSAMPLES, extent, _SUBSAMPLES)
    share: NDArray[np.float32] = parts.mean((1, 3), dtype=np.float32)
    return share[..., None]


@cache
def _corners(shape: str, extent: int) -> tuple[tuple[float, float], ...]:
    if shape == "square":
        return ((0.0, 0.0), (extent, 0.0), (extent, extent), (0.0, extent))
    if shape == "triangle":
        return ((extent / 2, 0.0), (extent, extent), (0.0, extent))
    radius = extent / 2
    turns = [2 * math.pi * corner / _CORNERS for corner in range(_CORNERS)]
    return tuple((radius + radius * math.cos(turn), radius + radius * math.sin(turn)) for turn in turns)
