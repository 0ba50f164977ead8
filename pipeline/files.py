"""Text files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def publish_text(file: Path, text: str) -> None:
    """Write ``file`` under another name and rename it: a kill or a full disk leaves what was there, and no litter."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    try:
        # File names and texts of data sets may hold code points that no encoding has.
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
