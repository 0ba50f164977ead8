"""The input of the builder, made by a source: records with the images they describe, and what of the files is in none.

A data set is counted in entries of six kinds (`shards.format.ledger.KINDS`). A source counts them where it reads the
files; whatever of them does not become part of a record is a `Fault`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.record import Record

Counts = Counter[tuple[str, str]]  # entries by split and kind
# Causes that are no fault: the rules of a data set, or of its reader, leave these entries out.
BY_RULE = frozenset(("no box", "ambiguous", "no label", "merged", "crowd"))
# Pictures in a row of which nothing can be used, before a source is refused as a whole.
_ALL_LOST = 10_000


@dataclass(frozen=True, slots=True)
class Named:
    """What the annotations name an image by: its file, and ids such as "coco:139" (`shards.format.pictures`)."""

    file_name: str = ""
    ids: tuple[str, ...] = ()


NAMELESS = Named()


@dataclass(frozen=True, slots=True)
class Fault:
    """An entry of the annotations that was lost, or with ``changed`` one that was kept otherwise than it was given.

    ``kind`` and ``id`` say which, ``split`` is empty where the file tells none. ``cause`` is a short class of reasons,
    the same at every place of its kind; ``reason`` is the whole text. ``takes`` are the entries, by kind, that were
    lost with it, itself among them: a region takes its expressions. ``region`` is the id of the region it belongs to,
    ``key`` that of the sample where no sample holds the fault; ``named`` what is known of an image that is lost then.
    """

    kind: str
    id: str
    split: str
    cause: str
    reason: str
    file: str
    takes: tuple[tuple[str, int], ...] = ()
    region: str | None = None
    changed: bool = False
    key: str = ""
    named: Named = NAMELESS


@dataclass(frozen=True, slots=True)
class RawSample:
    """One image before the build.

    The record's width and height are what the annotations claim, 0 where they claim nothing; the builder puts the
    decoded size there. ``image`` may be missing or broken: the builder quarantines it. ``faults`` are those of entries
    of this image. ``ids`` are those that neither the record's ``coco_id`` nor its file name tells.
    """

    record: Record
    image: Path
    faults: tuple[Fault, ...] = ()
    ids: tuple[str, ...] = ()

    @property
    def splits(self) -> frozenset[str]:
        """Every split that an entry of this image belongs to, whether it was lost or not."""
        return frozenset(self.record.splits) | {fault.split for fault in self.faults if fault.split}

    @property
    def nothing_left(self) -> bool:
        """Whether each entry of the image was lost before it was looked at."""
        return bool(self.faults) and not self.record.regions and not self.record.questions


@dataclass(slots=True)
class Account:
    """What a source has read, counted at the files, and the faults of entries that belong to no sample.

    Both are whole when the last sample was taken.
    """

    read: Counts = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)

    def count(self, split: str, **entries: int) -> None:
        """Count entries of a split, by kind."""
        for kind, number in entries.items():
            self.read[split, kind] += number


class Samples(Iterator[RawSample]):
    """The samples of a source, with their number as `operator.length_hint` for the progress bar.

    Raises InputError with the first fault before the first sample where not one entry can be used: that is a fault of
    the files, or another layout, and no matter for a quarantine.
    """

    def __init__(self, samples: Iterable[RawSample], total: int, account: Account | None = None) -> None:
        self.account = account
        self._samples = iter(samples) if account is None else _not_all_lost(iter(samples), account)
        self._left = total

    def __next__(self) -> RawSample:
        sample = next(self._samples)
        self._left -= 1
        return sample

    def __length_hint__(self) -> int:
        return max(self._left, 0)


def storable(text: str) -> str:
    """The text as a table can hold it: file names and pickles may have other bytes than those of UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _not_all_lost(samples: Iterator[RawSample], account: Account) -> Iterator[RawSample]:
    held: list[RawSample] = []
    for sample in samples:
        held.append(sample)
        if not sample.nothing_left:
            break
        if len(held) == _ALL_LOST:
            raise _all_lost(held, account)
    else:
        if held or account.faults:
            raise _all_lost(held, account)
    yield from held
    yield from samples


def _all_lost(held: list[RawSample], account: Account) -> InputError:
    faults = [*account.faults, *(fault for sample in held for fault in sample.faults)]
    first = min(faults, key=lambda fault: fault.cause in BY_RULE)
    return InputError(
        f"{first.reason}; nor can any other entry be used: mend the files, get them again, or check --root"
    )
