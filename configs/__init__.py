"""The configurations that come with the package: recipes, graphs of stages, a site's example."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def found(file: str | Path) -> Path:
    """The file of this name; where the working folder has none, `configs/...` is the package's own.

    A name that is neither comes back as it is, for whoever opens it to report.
    """
    file = Path(file)
    own = _FOLDER.joinpath(*file.parts[1:])
    return own if file.parts[:1] == ("configs",) and not file.exists() and own.is_file() else file
