"""Letterboxing: one object that places the image, its boxes and its masks alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

PADDING = 127  # the grey around an image, of 255


@dataclass(frozen=True)
class Letterbox:
    """Images of any shape, scaled to fit a square of ``size`` pixels and centred on it (SimREC's letterbox).

    All arrays are (B,): the image's sides before and after, and where its upper left corner lands.
    """

    size: int
    width: Ints
    height: Ints
    new_width: Ints
    new_height: Ints
    left: Ints
    top: Ints

    @classmethod
    def fit(cls, width: Ints, height: Ints, size: int) -> Letterbox:
        """The letterbox of images of these sides, (B,) each, in pixels."""
        width, height = np.asarray(width, np.int64), np.asarray(height, np.int64)
        scale = size / np.maximum(width, height)
        new_width = np.maximum(1, np.rint(width * scale)).astype(np.int64)
        new_height = np.maximum(1, np.rint(height * scale)).astype(np.int64)
        return cls(size, width, height, new_width, new_height, (size - new_width) // 2, (size - new_height) // 2)

    def moved(self, scale: Floats, at: Floats, boxes: Floats) -> Letterbox:
        """The square, padding and all, scaled by ``scale`` (B,) about and set where ``at`` (B, 2) says: training's.

        ``at`` goes from 0 to 1, across and down, over the positions where three things hold: of the old square and the
        new, the smaller lies within the larger; so it does of the image and the new square; and as much of the box
        (B, 4), xyxy on the old square, is seen as can be: all of it, or all across the new square where the box has
        outgrown that. So a box keeps its centre and, along either side, at least 1 / scale of itself, to the pixel. A
        box of NaN sets no condition.
        """
        factor, plain = scale.astype(np.float64)[:, None], boxes.astype(np.float64)
        corner = factor * np.stack([self.left, self.top], 1)
        sides = np.maximum(1, np.rint(factor * np.stack([self.new_width, self.new_height], 1))).astype(np.int64)
        room, own = self.size * (1 - factor), self.size - sides
        ends = [
            (np.zeros_like(room), room),
            (-corner, own - corner),
            (-plain[:, :2] * factor, self.size - plain[:, 2:] * factor),
        ]
        low, high = np.full_like(corner, -np.inf), np.full_like(corner, np.inf)
        for one, other in ends:
            low = np.fmax(low, np.minimum(one, other))  # fmax and fmin pass over NaN
            high = np.fmin(high, np.maximum(one, other))
        corner = np.rint(corner + low + at * (high - low)).astype(np.int64)
        left, top = np.clip(corner, np.minimum(own, 0), np.maximum(own, 0)).T
        new_width, new_height = sides.T
        return replace(self, new_width=new_width, new_height=new_height, left=left, top=top)

    def boxes(self, boxes: Floats) -> Floats:
        """Boxes (B, 4), xywh on the images, as xyxy on the square; a moved one may reach over its border."""
        x, y, w, h = np.asarray(boxes, np.float32).T
        across, down = self.new_width / self.width, self.new_height / self.height
        return np.stack(
            [x * across + self.left, y * down + self.top, (x + w) * across + self.left, (y + h) * down + self.top], 1
        ).astype(np.float32)

    def restore(self, boxes: Floats) -> Floats:
        """Boxes (B, 4), xyxy on the square, back to xywh on the images, cut at their borders."""
        x1, y1, x2, y2 = np.asarray(boxes, np.float32).T
        across, down = self.width / self.new_width, self.height / self.new_height
        x1, x2 = (np.clip((x - self.left) * across, 0, self.width) for x in (x1, x2))
        y1, y2 = (np.clip((y - self.top) * down, 0, self.height) for y in (y1, y2))
        return np.stack([x1, y1, x2 - x1, y2 - y1], 1).astype(np.float32)

    def cells(self, index: int, sides: tuple[int, int]) -> tuple[Ints, Ints]:
        """Of a grid of cells (rows, columns) over the square, those that hold the centres of an image's pixels.

        The row of each row of pixels of image ``index``, (height,), and the column of each column, (width,).
        """
        found = [
            ((np.arange(old) + 0.5) * new / old + first) * cells / self.size
            for old, new, first, cells in (
                (int(self.height[index]), int(self.new_height[index]), int(self.top[index]), sides[0]),
                (int(self.width[index]), int(self.new_width[index]), int(self.left[index]), sides[1]),
            )
        ]
        rows, columns = (places.astype(np.int64) for places in found)
        return rows, columns

    def inside(self, index: int) -> tuple[slice, slice]:
        """Rows and columns of the square that image ``index`` fills: what is not padding."""
        top, left = int(self.top[index]), int(self.left[index])
        bottom, right = top + int(self.new_height[index]), left + int(self.new_width[index])
        return slice(max(0, top), min(self.size, bottom)), slice(max(0, left), min(self.size, right))

    def mask(self, index: int, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask (height, width) of image ``index`` on the square, by the nearest pixel: hard labels stay hard."""
        new_height, new_width = int(self.new_height[index]), int(self.new_width[index])
        inside = self.inside(index)
        down, across = (np.arange(self.size)[part] for part in inside)
        rows = ((down - self.top[index] + 0.5) * int(self.height[index]) / new_height).astype(np.int64)
        columns = ((across - self.left[index] + 0.5) * int(self.width[index]) / new_width).astype(np.int64)
        square = np.zeros((self.size, self.size), np.uint8)
        square[inside] = mask[rows[:, None], columns[None, :]]
        return square
