"""Letterboxing: one object that places the picture, its boxes and its masks alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Letterbox:
    """Pictures of any shape, scaled to fit a square of ``size`` pixels and centred on it (SimREC's letterbox).

    All arrays are (B,): the picture's sides before and after, and where its upper left corner lands.
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
        """The letterbox of pictures of these sides, in pixels."""
        width, height = np.asarray(width, np.int64), np.asarray(height, np.int64)
        scale = size / np.maximum(width, height)
        new_width = np.maximum(1, np.rint(width * scale)).astype(np.int64)
        new_height = np.maximum(1, np.rint(height * scale)).astype(np.int64)
        return cls(size, width, height, new_width, new_height, (size - new_width) // 2, (size - new_height) // 2)

    def boxes(self, boxes: Floats) -> Floats:
        """Boxes (B, 4), xywh on the pictures, as xyxy on the square."""
        x, y, w, h = np.asarray(boxes, np.float32).T
        across, down = self.new_width / self.width, self.new_height / self.height
        return np.stack(
            [x * across + self.left, y * down + self.top, (x + w) * across + self.left, (y + h) * down + self.top], 1
        ).astype(np.float32)

    def restore(self, boxes: Floats) -> Floats:
        """Boxes (B, 4), xyxy on the square, back to xywh on the pictures, cut at their borders."""
        x1, y1, x2, y2 = np.asarray(boxes, np.float32).T
        across, down = self.width / self.new_width, self.height / self.new_height
        x1, x2 = (np.clip((x - self.left) * across, 0, self.width) for x in (x1, x2))
        y1, y2 = (np.clip((y - self.top) * down, 0, self.height) for y in (y1, y2))
        return np.stack([x1, y1, x2 - x1, y2 - y1], 1).astype(np.float32)

    def mask(self, index: int, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask (height, width) of picture ``index`` on the square, by the nearest pixel: hard labels stay hard."""
        new_height, new_width = int(self.new_height[index]), int(self.new_width[index])
        rows = ((np.arange(new_height) + 0.5) * int(self.height[index]) / new_height).astype(np.int64)
        columns = ((np.arange(new_width) + 0.5) * int(self.width[index]) / new_width).astype(np.int64)
        square = np.zeros((self.size, self.size), np.uint8)
        top, left = int(self.top[index]), int(self.left[index])
        square[top : top + new_height, left : left + new_width] = mask[rows[:, None], columns[None, :]]
        return square
