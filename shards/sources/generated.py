"""How a data set says that it was generated: by a file beside its annotations, for its layout is that of another."""

from __future__ import annotations

from pathlib import Path

MARK = "generated.json"  # in the folder of each layout


def is_generated(root: Path) -> bool:
    """Whether the data set under a root, or around the file that is one, bears the mark."""
    return ((root if root.is_dir() else root.parent) / MARK).is_file()
