"""Raw samples cut into chunks, one a shard, as a stream.

The cut goes by the size of the image files on disk: it is known before any image is decoded, and is the same at
any number of workers. Images that are not there, those of which no entry can be used and those whose key another image
has already go to quarantine with a reason and into no chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.shards.build.keys import KeySet
from laconvnet.shards.build.sizes import FileSize, looked_up, shared, unseen
from laconvnet.shards.build.writer import Chunk
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.ledger import fault_row, picture_rows, sample_counts
from laconvnet.shards.format.pictures import sample_row
from laconvnet.shards.format.raw import Counts, Fault, RawSample, Samples

SHARD_BYTES = 256 * 2**20
# So that small images (CLEVR's are 100 KB, thumbnails less) do not make one chunk of a whole data set.
SHARD_SAMPLES = 10_000
_KEY_LENGTH = 95  # with ".json" the 100 bytes of a USTAR name


@dataclass(frozen=True, slots=True)
class Plan:
    """The outcome of a build, as known before any image is decoded: counts, and the bytes of the image files."""

    samples: int
    shards: int
    bytes: int
    missing: int


class Planner:
    """Cuts the raw samples into chunks, once; these fill while `chunks` is read:

    ``rows`` with the quarantine rows of what is in no chunk, ``pictures`` with its rows of the table of that name,
    ``unread`` with the samples that have no row there yet: nothing of them is left, and what they show may be a test.
    ``missing`` with the number of images that are not there, and ``read`` with the entries that the source has read.
    With ``notes``, a folder, the sizes of images are those that another planner has left there, where it has; without
    ``look`` nobody looks for an image, and none has a size.
    """

    def __init__(
        self, samples: Iterable[RawSample], shard_bytes: int, notes: Path | None = None, look: bool = True
    ) -> None:
        if shard_bytes <= 0:
            raise InputError(f"shard_bytes {shard_bytes}, expected a positive number of bytes")
        self._sized: Iterator[tuple[RawSample, FileSize]] = (
            shared(samples, notes) if notes else looked_up(samples) if look else unseen(samples)
        )
        self._shard_bytes = shard_bytes
        self._keys = KeySet()
        self.rows: list[dict[str, Any]] = []
        self.pictures: list[dict[str, Any]] = []
        self.unread: list[RawSample] = []
        self._account = samples.account if isinstance(samples, Samples) else None
        self._counted: Counts = Counter()
        self.missing = 0

    def chunks(self) -> Iterator[Chunk]:
        """The chunks in order; raises InputError when there is no image at all."""
        number, held, sizes, total = 0, list[RawSample](), list[int](), 0
        for sample, size in self._present():
            if held and (total + size > self._shard_bytes or len(held) == SHARD_SAMPLES):
                yield from (chunks := self._chunk(number, held, sizes))
                number, held, sizes, total = number + len(chunks), [], [], 0
            held.append(sample)
            sizes.append(size)
            total += size
        yield from (chunks := self._chunk(number, held, sizes))
        if number + len(chunks):
            return
        if self.missing:
            first = next(row for row in self.rows if row["cause"] == "missing")
            raise InputError(
                f"{first['file']}: no such image, nor any other of {self.missing}; expected the folder that holds the"
                " images, check --images and --root"
            )
        if self.rows:
            raise InputError(f"{self.rows[0]['reason']}; nor can any other image of this source be used")
        raise InputError("the source yields no image; check --split and --root")

    @property
    def read(self) -> Counts:
        """The entries by split and kind, as the source has counted them at its files; else as they passed here."""
        return self._counted if self._account is None else self._account.read

    @property
    def quarantined(self) -> list[dict[str, Any]]:
        """The quarantine rows of what is in no chunk: images, and entries that belong to none."""
        return [*self.rows, *(fault_row(fault, fault.key) for fault in self.faults)]

    @property
    def faults(self) -> Sequence[Fault]:
        """The faults of entries that belong to no sample."""
        return self._account.faults if self._account else ()

    def _present(self) -> Iterator[tuple[RawSample, int]]:
        for sample, found in self._sized:
            if self._account is None:
                self._counted.update(sample_counts(sample))
            if sample.nothing_left and sample.splits != {"train"}:
                self.rows.extend(picture_rows(sample, sample.record))
                self.unread.append(sample)
            elif sample.nothing_left:  # whether there is an image is all the same
                self._lose(sample, picture_rows(sample, sample.record))
            elif not isinstance(found, int):
                self.missing += 1
                self._lose(sample, picture_rows(sample, None, "missing", found))
            elif len(sample.record.key) > _KEY_LENGTH:
                reason = f"key {sample.record.key!r} is longer than the {_KEY_LENGTH} characters of a tar name"
                self._lose(sample, picture_rows(sample, None, "key", reason))
            else:
                yield sample, found

    def _lose(self, sample: RawSample, rows: Iterable[dict[str, Any]]) -> None:
        self.rows.extend(rows)
        self.pictures.append(sample_row(sample))

    def _chunk(self, number: int, held: list[RawSample], sizes: list[int]) -> tuple[Chunk, ...]:
        """The chunk of these samples but those whose key was there before; none where none is left."""
        begin, twice = 0, set[int]()
        while begin < len(held):
            again = self._keys.add([sample.record.key for sample in held[begin:]])
            if again is None:
                break
            twice.add(begin + again)
            begin += again + 1
        for place in sorted(twice):
            sample = held[place]
            name = sample.record.file_name
            reason = (
                f"key {sample.record.key!r} occurs twice in this build, {name} is the second of its images; expected"
                " the image ids different in letters, digits and dashes"
            )
            self._lose(sample, picture_rows(sample, None, "duplicate key", reason))
        kept = [place for place in range(len(held)) if place not in twice]
        if not kept:
            return ()
        return (Chunk(number, tuple(held[place] for place in kept), tuple(sizes[place] for place in kept)),)


def plan(samples: Iterable[RawSample], shard_bytes: int = SHARD_BYTES) -> Plan:
    """The plan of `shards.build.builder.build` for these samples; reads no image. Raises InputError as it does."""
    planner = Planner(samples, shard_bytes)
    count = shards = total = 0
    for chunk in planner.chunks():
        count += len(chunk.samples)
        shards += 1
        total += sum(chunk.sizes)
    return Plan(count, shards, total, planner.missing)
