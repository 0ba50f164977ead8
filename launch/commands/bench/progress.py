"""How far a measurement is."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any


def bar(parts: Iterable[Any] | None = None, **options: Any) -> Any:
    """tqdm's bar with these options of its; nothing is shown where tqdm is missing, as on a bare GPU machine."""
    if find_spec("tqdm") is None:
        return _Silent(parts)
    from tqdm import tqdm

    return tqdm(parts, **options)


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
