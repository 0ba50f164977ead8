"""What is asked of models: texts about image files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.pipeline.errors import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")  # of images.FORMATS


@dataclass(frozen=True)
class Ask:
    """A text about an image file.

    ``row`` is its number in the list that it comes from, counted as that counts, ``id`` what the list calls it, and
    ``fault`` why it cannot be asked.
    """

    row: int
    image: Path
    text: str
    id: str | None = None
    fault: str | None = None

    def facts(self) -> dict[str, Any]:
        """What an answer repeats of it."""
        named = {} if self.id is None else {"id": self.id}
        return {"row": self.row, **named, "image": str(self.image), "text": self.text}


def of_images(places: list[Path], text: str) -> list[Ask]:
    """One text about these files, and about every image file in and below these folders, by their names.

    Raises ConfigError for a folder that holds none, and OSError for one, or one in it, that cannot be read.
    """
    return [Ask(row, image, text) for row, image in enumerate((file for place in places for file in _in(place)), 1)]


def _in(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        yield place
        return
    found = sorted(file for file in _below(place) if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise ConfigError(f"--image: {place}: no image in it; expected names that end in one of {' '.join(SUFFIXES)}")
    yield from found


def _below(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(folder, onerror=fail):
        yield from (Path(place, name) for name in names)
