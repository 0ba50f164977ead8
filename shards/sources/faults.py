"""One policy for faults of annotations, for all sources.

A fault of one entry takes that entry into quarantine, with its reason, and the build goes on: the checks of
`shards.sources.reading` and `shards.sources.masks` raise EntryFault, and a source reads each entry inside `entry`.
Where the same check is made of the file as a whole, outside `entry`, or the file cannot be read, the InputError ends
the build. So it does where not one entry can be used (`shards.format.raw.Samples`).
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import NAMELESS, Fault, Named

T = TypeVar("T")

_ID_LENGTH = 200


class EntryFault(InputError):
    """A fault of one entry; ``cause`` is its short class, for the ledger."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@contextmanager
def entry(
    faults: list[Fault],
    kind: str,
    id: object,
    split: str,
    file: Path,
    takes: Mapping[str, int],
    region: str | None = None,
) -> Iterator[None]:
    """Read one entry inside: an EntryFault becomes a `Fault` in the list, and the rest of the block is skipped.

    ``takes`` are the entries that are lost then, by kind, this one among them.
    """
    try:
        yield
    except EntryFault as error:
        faults.append(lost(error, kind, id, split, file, takes, region))


def lost(
    error: EntryFault,
    kind: str,
    id: object,
    split: str,
    file: Path,
    takes: Mapping[str, int],
    region: str | None = None,
    key: str = "",
    named: Named = NAMELESS,
) -> Fault:
    """The fault of an entry that is lost."""
    taken = tuple((name, number) for name, number in takes.items() if number)
    return Fault(kind, _short(id), split, error.cause, str(error), str(file), taken, region, key=key, named=named)


def sort_out(
    twins: Sequence[T], same: Callable[[T], object], content: Callable[[T], str]
) -> tuple[Sequence[T], Sequence[T], str]:
    """Of the entries under one id those that are kept, those that are lost, and how they stand to each other, in words.

    The first is kept where ``same`` is the same of all, and none where it differs: nobody can tell which was meant.
    """
    if all(same(twin) == same(twins[0]) for twin in twins):
        return twins[:1], twins[1:], "alike"
    return (), twins, f"with other contents: {' and '.join(map(content, twins[:2]))}"


def _short(id: object) -> str:
    """The id as a text that a table can hold, whatever stands in its place."""
    return str(id) if isinstance(id, int) else (id if isinstance(id, str) else reprlib.repr(id))[:_ID_LENGTH]
