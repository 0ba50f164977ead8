"""One cell of a table: texts as boxes, masks, answers and numbers. What they are not is an EntryFault of the row."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.record import Box, Rle
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.faults import EntryFault
from laconvnet.shards.sources.masks import of_png, to_rle

Size = tuple[int, int]
_SHOWN = 80  # characters of a cell in a message


def below(folder: Path, name: str, where: str, what: str) -> Path:
    """The path of a file that a cell names, which has to lie below the folder."""
    if "://" in name:
        told = f"{what} {reprlib.repr(name)} is a URL, of which none is fetched"
        raise EntryFault("path", f"{where}: {told}; expected a path below {folder}")
    try:
        return reading.inside(folder, name, where)
    except InputError as error:
        raise EntryFault("path", str(error)) from error


def words(cell: str | None, where: str, what: str) -> str:
    """A text that has to have words."""
    text = reading.text(cell or "", where)
    if not text:
        raise EntryFault("blank", f"{where}: the {what} is empty")
    return text


def side(cell: str | None, where: str, what: str) -> int:
    """The width or height of a picture, also as 640.0."""
    try:
        number = float(cell or "")
    except ValueError:
        return reading.side({what: cell}, where, what)
    return reading.side({what: int(number) if number.is_integer() else number}, where, what)


def answers(answer: str | None, several: str | None, where: str) -> tuple[str, tuple[str, ...]]:
    """The answer and those of all people; the commonest, the first of equals, where only these are told."""
    people = tuple(filter(None, (reading.text(one, where) for one in _listed(several or "", where))))
    one = reading.text(answer or "", where) or (Counter(people).most_common(1)[0][0] if people else "")
    if not one:
        raise EntryFault("no answer", f"{where}: no answer")
    return one, people


def _listed(cell: str, where: str) -> list[str]:
    """The texts of a JSON list, or of a text with bars between them."""
    if not cell.startswith("["):
        return cell.split("|")
    values = _json(cell, where, "answers")
    if not all(isinstance(one, str | int | float) for one in values):
        raise EntryFault("field", f"{where}: answers {cell[:_SHOWN]!r}, expected a list of texts")
    return [str(one) for one in values]


def boxes(cell: str, where: str) -> tuple[Box, ...]:
    """The boxes of one cell: four numbers as JSON or with blanks or commas between them, or a list of such lists."""
    is_json = cell.startswith("[") and ("," in cell or not cell[1:-1].strip())
    # Else also what Python and NumPy make of four numbers: (1, 2, 3, 4) and [1. 2. 3. 4.]
    values = _json(cell, where, "box") if is_json else cell.strip("()[]").replace(",", " ").split()
    several = values if is_json and all(isinstance(value, list) for value in values) else [values]
    return tuple(box(numbers, False, where) for numbers in several)


def box(values: Sequence[Any], corners: bool, where: str) -> Box:
    """A box of numbers, or of texts of numbers, in pixels: x, y, w, h, or with corners x1, y1, x2, y2."""
    try:
        numbers = [float(value) if isinstance(value, str) else value for value in values]
    except ValueError:
        numbers = list(values)
    x, y, w, h = reading.box(numbers, where)
    if corners:
        w, h = w - x, h - y
    if w <= 0 or h <= 0:
        raise EntryFault("box", f"{where}: box {[x, y, w, h]} (x, y, w, h) has no area")
    if min(x, y) >= 0 and max(x + w, y + h) <= 1 and not all(side.is_integer() for side in (x, y, w, h)):
        told = "lies within one pixel; expected pixels, not shares of the picture"
        raise EntryFault("box", f"{where}: box {[x, y, w, h]} (x, y, w, h) {told}")
    return (x, y, w, h)


def mask(cell: str, size: Callable[[], Size | None], folder: Path, where: str, dropped: list[str]) -> Rle:
    """Run lengths of a size of their own, polygons on the picture, or the PNG of that name below the folder.

    ``size`` gives width and height of the picture where they are known; ``dropped`` as in `to_rle`.
    """
    if not cell.startswith(("[", "{")):
        return of_png(below(folder, cell, where, "mask"), where)
    given = _json(cell, where, "mask")
    if isinstance(given, dict):
        sides = reading.field(given, f"{where}: mask", list, "size")
        if len(sides) != 2:
            raise EntryFault("mask", f"{where}: key 'size' of the mask is {sides}, expected [height, width]")
        height, width = (reading.side({"size": one}, where, "size") for one in sides)
        return to_rle(given, height, width, where)
    polygons = [given] if given and not isinstance(given[0], list) else given
    width, height = size() or _canvas(polygons)
    return to_rle(polygons, height, width, where, dropped)


def _canvas(polygons: list[Any]) -> Size:
    """The smallest picture that holds the polygons, where the true one is not to be seen."""
    outlines = [one for one in polygons if isinstance(one, list)]
    width, height = (
        max([1, *(ceil(value) for one in outlines for value in one[axis::2] if reading.is_number(value))])
        for axis in (0, 1)
    )
    return min(width, reading.JPEG_MAX_SIDE), min(height, reading.JPEG_MAX_SIDE)


def _json(cell: str, where: str, what: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise EntryFault(
            "field", f"{where}: {what} {cell[:_SHOWN]!r} is broken JSON ({str(error)[:_SHOWN]})"
        ) from error
