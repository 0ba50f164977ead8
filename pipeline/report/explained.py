"""What `laconvnet eval --explain` has written beside a result: where each word of some examples weighs how much."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import UnidentifiedImageError

from laconvnet.images import data_uri
from laconvnet.pipeline.runs.layout import EXPLAINED
from laconvnet.pipeline.runs.records import is_number, read_lines
from laconvnet.shards.errors import InputError

SIDE = 96  # the longest of a map, pixels


@dataclass(frozen=True)
class WordMap:
    """A word, a layer over the image as a data URI, and the least and the largest weight in it."""

    word: str
    image: str
    least: float
    most: float


def word_maps(result: Path) -> dict[int, tuple[WordMap, ...]]:
    """The maps beside the file of a result by their example, none where it was not explained.

    Raises InputError for a file that says anything else.
    """
    file = result.with_suffix(EXPLAINED)
    found = {}
    for row in read_lines(file):
        try:
            found[int(row["example"])] = tuple(_map(word) for word in row["words"])
        except (KeyError, TypeError, ValueError, SyntaxError, UnidentifiedImageError) as error:
            raise InputError(
                f"{file}: example {row.get('example')!r}: holds no words with their maps ({type(error).__name__}); "
                "delete it, or run `laconvnet eval --explain` again"
            ) from error
    return found


def _map(word: Mapping[str, Any]) -> WordMap:
    if not is_number(word["least"]) or not is_number(word["most"]):
        raise ValueError("weights that are no numbers")
    image = data_uri(base64.b64decode(word["map"], validate=True), SIDE, SIDE)
    return WordMap(str(word["word"]), image, float(word["least"]), float(word["most"]))
