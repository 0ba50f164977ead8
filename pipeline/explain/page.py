"""The sheet of one explanation as a page of HTML that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from laconvnet.images import data_uri
from laconvnet.page import templates
from laconvnet.pipeline.explain import tiles
from laconvnet.pipeline.explain.explanation import Explanation, Floats
from laconvnet.pipeline.explain.filters import Place, StageFilters, by_stage

_LONGEST = 96  # side of the image in a grid, pixels
_KEPT, _LARGEST = 320, 640  # sides of the image with the answer


@dataclass(frozen=True)
class Tile:
    """A small image as a data URI, and the least and the largest number in it."""

    image: str
    least: float
    most: float


@dataclass(frozen=True)
class Grid:
    """The tiles of each word, and what heads their columns; all are drawn on one scale a column."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]


def page(explanation: Explanation, places: Sequence[Place], origin: str) -> str:
    """The answer, a grid of the words' weights by stage and by head, filters at the places, and their spread."""
    small = tiles.smaller(explanation, _LONGEST)
    heads = len(explanation.blocks[0].affinity)
    template = templates(Path(__file__).parent).get_template("page.html.j2")
    return template.render(
        origin=origin,
        answer=explanation.answer,
        answered=_answered(explanation),
        picture=_uri(small.answer.image),
        stages=_grid(small, [(f"stage {stage}", stage, None) for stage in small.stages]),
        heads={
            stage: _grid(small, [(f"head {head + 1}", stage, head) for head in range(heads)]) for stage in small.stages
        },
        places=places,
        rows=_rows(explanation, places),
    )


def _grid(small: Explanation, columns: Sequence[tuple[str, int, int | None]]) -> Grid:
    found = [[small.over(word, stage, head) for word in range(len(small.words))] for _, stage, head in columns]
    drawn = [[_tile(tiles.weights(one, float(np.max(maps))), one) for one in maps] for maps in found]
    rows = zip(small.words, (tuple(row) for row in zip(*drawn, strict=True)), strict=True)
    return Grid(tuple(name for name, _, _ in columns), tuple(rows))


def _rows(explanation: Explanation, places: Sequence[Place]) -> list[tuple[StageFilters, list[Tile]]]:
    return [
        (found, [_tile(tiles.filters(one, found.most), one) for one in found.filters])
        for found in by_stage(explanation, places)
    ]


def _tile(image: Image.Image, numbers: Floats) -> Tile:
    return Tile(_uri(image), float(numbers.min()), float(numbers.max()))


def _answered(explanation: Explanation) -> str:
    """The image with the answer, as a data URI."""
    return data_uri(tiles.png(explanation.answer.draw()), _KEPT, _LARGEST)


def _uri(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(tiles.png(image)).decode()
