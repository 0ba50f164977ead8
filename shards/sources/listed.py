"""What a file lists by id, an entry each, for others to refer to: those that can be used, and why the rest cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from laconvnet.shards.sources.faults import EntryFault

T = TypeVar("T")


class Listed(Generic[T]):
    """Entries by id. One that stands there twice, with other contents, is none: nobody can tell which was meant."""

    def __init__(self) -> None:
        self.usable: dict[int, T] = {}
        self.unusable: dict[int, EntryFault] = {}

    @contextmanager
    def reading(self, id: int) -> Iterator[None]:
        """Read an entry of that id inside, and `add` it: an EntryFault makes the id unusable."""
        try:
            yield
        except EntryFault as error:
            self.unusable[id] = error
            self.usable.pop(id, None)

    def add(self, id: int, value: T, where: str) -> None:
        """Take an entry in. Raises EntryFault where the id has had another one."""
        if id in self.unusable:
            return
        if self.usable.setdefault(id, value) != value:
            raise EntryFault(
                "duplicate id", f"{where} occurs twice, with other contents: {self.usable[id]} and {value}"
            )
