"""One explanation as a file: a page or an image, by the ending of its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from laconvnet.files import publish_bytes, publish_text
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.explain import tiles
from laconvnet.pipeline.explain.explanation import Explanation
from laconvnet.pipeline.explain.filters import Place
from laconvnet.pipeline.explain.page import page
from laconvnet.pipeline.explain.picture import picture

_ENDINGS = (".html", ".png")


def check(file: Path, option: str) -> None:
    """Raises ConfigError, naming the option, for a file whose name says neither page nor image."""
    if file.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"{option}: {file}: expected a name that ends in {' or '.join(_ENDINGS)}")


def write(explanation: Explanation, places: Sequence[Place], origin: str, file: Path) -> None:
    """Write the sheet to a file that has been checked, whole or not at all; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".html":
        publish_text(file, page(explanation, places, origin))
        return
    publish_bytes(file, tiles.png(picture(explanation, places)))
