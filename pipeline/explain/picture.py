"""The sheet of one explanation as one image: the answer, the words' weights by stage, filters and their spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from laconvnet.pipeline.explain import tiles
from laconvnet.pipeline.explain.explanation import Explanation
from laconvnet.pipeline.explain.filters import Place, by_stage

_SIDE = 128  # the longest of a tile, pixels
_MARGIN, _LINE = 12, 16  # at the border, and the height of a line of text
_WORD, _WIDE = 120, 190  # width of the column of words, and of one of tiles, which holds a line of text

Row = tuple[str, list[tuple[Image.Image, str]]]  # what heads it, and each image with what stands below it


def picture(explanation: Explanation, places: Sequence[Place]) -> Image.Image:
    """An RGB image of the answer and, below it, a row a word and a row a stage's filters."""
    small = tiles.smaller(explanation, _SIDE)
    words, filters = list(_words(small)), list(_filters(explanation, places))
    parts = [explanation.answer.draw(), _table(words), _table(filters)]
    sheet = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def _words(small: Explanation) -> Iterator[Row]:
    image = small.answer.image
    found = {stage: [small.over(word, stage) for word in range(len(small.words))] for stage in small.stages}
    for number, word in enumerate(small.words):
        row = []
        for stage, maps in found.items():
            one, tile = maps[number], image.convert("RGBA")
            tile.alpha_composite(tiles.weights(one, float(np.max(maps))).convert("RGBA"))
            row.append((_enlarged(tile.convert("RGB")), f"stage {stage}: {one.min():.2f} to {one.max():.2f}"))
        yield word, row


def _filters(explanation: Explanation, places: Sequence[Place]) -> Iterator[Row]:
    for found in by_stage(explanation, places):
        drawn = [tiles.filters(one, found.most) for one in found.filters]
        row = [
            (_enlarged(one), f"{place.name} ({place.x}, {place.y})") for one, place in zip(drawn, places, strict=True)
        ]
        yield f"filters of stage {found.stage}\nspread {found.spread:.2g}", row


def _enlarged(image: Image.Image) -> Image.Image:
    scale = max(1, _SIDE // max(image.size))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _table(rows: Sequence[Row]) -> Image.Image:
    tall = max(image.height for _, row in rows for image, _ in row) + 2 * _LINE
    sheet = Image.new("RGB", (_WORD + _WIDE * len(rows[0][1]), tall * len(rows) + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (head, row) in enumerate(rows):
        top = number * tall + _MARGIN
        pen.text((_MARGIN // 2, top), head, fill="black")
        for column, (image, text) in enumerate(row):
            left = _WORD + column * _WIDE
            sheet.paste(image, (left, top))
            pen.text((left, top + image.height + 2), text, fill="black")
    return sheet
