"""The filters that language has generated: at places of the image, and how much they differ between places (v2 Fig. 7).

A filter is that of one group at one pixel of a block, (k, k); see `explanation` for the other shapes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.explain.explanation import Block, Explanation, Floats
from laconvnet.pipeline.inference.answer import Answer


@dataclass(frozen=True)
class Place:
    """A pixel of the image, counted from its upper left corner, and why it is looked at."""

    name: str
    x: int
    y: int


def places(answer: Answer, asked: Sequence[str] = ()) -> tuple[Place, ...]:
    """The pixels that were ``asked`` for, each as "X,Y"; where none was, the answer's middle and one of the background.

    The middle is the centre of a box, the pixel of a mask that is nearest to the mask's centre of mass, and where there
    is neither the centre of the image. The background is, of the four pixels an eighth of the sides from the corners,
    the farthest from it. Raises ConfigError for what is no pixel of the image.
    """
    if asked:
        return tuple(_asked(text, *answer.image.size) for text in asked)
    width, height = answer.image.size
    name, x, y = _middle(answer)
    corners = [(i * width // 8, j * height // 8) for i in (1, 7) for j in (1, 7)]
    far = max(corners, key=lambda corner: (corner[0] - x) ** 2 + (corner[1] - y) ** 2)
    return Place(name, x, y), Place("background", *far)


def _asked(text: str, width: int, height: int) -> Place:
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9})", text)
    if found is None or int(found[1]) >= width or int(found[2]) >= height:
        raise ConfigError(f"--at: {text}: expected X,Y, a pixel of the image from 0,0 to {width - 1},{height - 1}")
    return Place("asked for", int(found[1]), int(found[2]))


def _middle(answer: Answer) -> tuple[str, int, int]:
    width, height = answer.image.size
    if answer.box is not None:
        x, y = (answer.box.x1 + answer.box.x2) / 2, (answer.box.y1 + answer.box.y2) / 2
        return "centre of the box", min(int(x), width - 1), min(int(y), height - 1)
    if answer.mask is not None and answer.mask.any():
        pixels = np.argwhere(answer.mask)
        row, column = pixels[((pixels - pixels.mean(0)) ** 2).sum(1).argmin()]
        return "centre of the mask", int(column), int(row)
    return "centre of the image", width // 2, height // 2


def at(explanation: Explanation, block: Block, place: Place) -> Floats:
    """The filters (g, k, k) that a block applies at the pixel of its own that holds the centre of this one."""
    rows, columns = explanation.letterbox.cells(0, block.sides)
    return block.filters(int(rows[place.y]), int(columns[place.x]))


@dataclass(frozen=True, eq=False)
class StageFilters:
    """The filters of a stage's last block at some places, (places, g, k, k), and the spread of the stage."""

    stage: int
    filters: Floats
    spread: float

    @property
    def most(self) -> float:
        """The largest tap, by its absolute value."""
        return float(np.abs(self.filters).max())


def by_stage(explanation: Explanation, places: Sequence[Place]) -> list[StageFilters]:
    """Of every stage, as v2 Fig. 7 shows them."""
    last, spreads = {block.stage: block for block in explanation.blocks}, spread(explanation)
    return [
        StageFilters(stage, np.stack([at(explanation, block, place) for place in places]), spreads[stage])
        for stage, block in last.items()
    ]


def spread(explanation: Explanation) -> dict[int, float]:
    """By stage, how much of its filters differs from place to place, from 0 (the same everywhere) to 1.

    Of a block it is the variance of each tap of each group over the block's pixels that the image covers, summed over
    taps and groups, and divided by the sum of the taps' mean squares. A stage has the mean of its blocks.
    """
    return {
        stage: float(np.mean([_spread(explanation, block) for block in explanation.blocks if block.stage == stage]))
        for stage in explanation.stages
    }


def _spread(explanation: Explanation, block: Block) -> float:
    rows, columns = (np.unique(cells) for cells in explanation.letterbox.cells(0, block.sides))
    seen = block.condition[:, rows[:, None], columns].reshape(len(block.condition), -1)
    taps = block.weight @ seen + block.bias[:, None]
    squares = np.square(taps, dtype=np.float64).mean()
    return float(taps.var(1, dtype=np.float64).mean() / squares) if squares else 0.0
