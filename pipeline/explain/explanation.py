"""An answer with what its network made of the words: where each weighed how much, and the filters that came of it.

Shape legend: heads of the affinity, L words, h x w the cells that are weighed (s x s pixels of a block), H x W the
pixels of a block, c condition width, g groups, k kernel size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference.answer import Answer

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Block:
    """What one LaConv block made, on the network's square.

    ``stage`` goes from 1 to 5 (of a plug-in from 3) and has stride 2**stage; ``place`` counts the stage's blocks from
    1. ``affinity`` (heads, L, h, w) is A of v2 Eq. 4 and sums to 1 over the L words. ``condition`` (c, H, W) is C of
    Eq. 3, which ``weight`` (k*k*g, c) and ``bias`` (k*k*g,) make filters of.
    """

    stage: int
    place: int
    affinity: Floats = field(repr=False)
    condition: Floats = field(repr=False)
    weight: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    groups: int

    @property
    def sides(self) -> tuple[int, int]:
        """H and W, its rows and columns of pixels."""
        return self.condition.shape[1], self.condition.shape[2]

    def filters(self, row: int, column: int) -> Floats:
        """The filters that are applied at a pixel of the block, (g, k, k)."""
        flat = self.weight @ self.condition[:, row, column] + self.bias
        side = math.isqrt(len(flat) // self.groups)
        return flat.reshape(side, side, self.groups).transpose(2, 0, 1)


@dataclass(frozen=True, eq=False)
class Explanation:
    """An answer, the words that it was given for, and what every LaConv block made of them.

    ``words`` are those that the model reads, in order: lower case, without marks, at most `data.words` of them.
    ``blocks`` go from the image to the answer. ``letterbox`` has placed the image on the square, as its only one.
    """

    answer: Answer
    words: tuple[str, ...]
    blocks: tuple[Block, ...]
    letterbox: Letterbox = field(repr=False)

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages that have blocks, in order."""
        return tuple(dict.fromkeys(block.stage for block in self.blocks))

    def over(self, word: int, stage: int | None = None, head: int | None = None) -> Floats:
        """How much a word, counted from 0, weighs at each pixel of the image, (height, width), from 0 to 1.

        Every pixel has the weight of the cell that its centre lies in. It is the mean of all heads, or of one, counted
        from 0, and of all blocks, or of one stage's. Raises ConfigError for a word, stage or head that is not there.
        """
        _check("word", word, range(len(self.words)))
        _check("stage", stage, (None, *self.stages))
        blocks = [block for block in self.blocks if stage in (None, block.stage)]
        _check("head", head, (None, *range(len(blocks[0].affinity))))
        heads = slice(None) if head is None else slice(head, head + 1)
        found: Floats = np.mean([self._on_image(block.affinity[heads, word]) for block in blocks], 0, dtype=np.float32)
        return found

    def _on_image(self, heads: Floats) -> Floats:
        grid = heads.mean(0)
        rows, columns = self.letterbox.cells(0, (grid.shape[0], grid.shape[1]))
        found: Floats = grid[rows[:, None], columns]
        return found


def _check(name: str, value: int | None, known: range | tuple[int | None, ...]) -> None:
    if value not in known:
        expected = " ".join(str(each) for each in known if each is not None)
        raise ConfigError(f"explain: {name} {value!r}: expected one of {expected}")
