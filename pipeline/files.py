"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def publishing(file: Path) -> Iterator[Path]:
    """A name to write under, renamed to ``file`` at the end: a kill or a full disk leaves what was there, no litter."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".partial.{file.name}")  # writers look at how a name ends
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def publish_text(file: Path, text: str) -> None:
    """Write ``file`` whole or not at all."""
    with publishing(file) as partial:
        # File names and texts of data sets may hold code points that no encoding has.
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))
