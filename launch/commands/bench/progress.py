"""How far a measurement is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def bar(parts: Iterable[Any] | None = None, **options: Any) -> Any:
    """A bar with these options of tqdm's; nothing is shown where tqdm is missing, as on a bare GPU machine."""
    try:
        from laconvnet.progress import Progress
    except ModuleNotFoundError:
        return _Silent(parts)
    return Progress(parts, **options)


class _Silent:
    """As much of tqdm as measurements use."""

    def __init__(self, parts: Iterable[Any] | None) -> None:
        self.parts = parts

    def __iter__(self) -> Any:
        return iter(self.parts or ())

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        """Nobody looks."""
