"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def publishing(file: Path) -> Iterator[Path]:
    """A name to write under, renamed to ``file`` at the end: a full disk leaves what was there and no litter.

    A kill, or a machine that goes down, leaves what was there or the whole new file, and ``.partial.NAME`` at most.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".partial.{file.name}")  # writers look at how a name ends
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())  # or the new name may outlive a power failure that its bytes did not
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def publish_text(file: Path, text: str) -> None:
    """Write ``file`` whole or not at all."""
    with publishing(file) as partial:
        # File names and texts of data sets may hold code points that no encoding has.
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))
