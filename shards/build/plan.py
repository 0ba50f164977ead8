"""Raw samples cut into chunks, one a shard, as a stream.

The cut goes by the size of the image files on disk: it is known before any image is decoded, and is the same at
any number of workers. Images that are not there go to quarantine with a reason and into no chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.shards.build.keys import KeySet
from laconvnet.shards.build.sizes import FileSize, looked_up, shared
from laconvnet.shards.build.writer import Chunk
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample

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
    """Cuts the raw samples into chunks, once; ``missing`` fills with quarantine rows while `chunks` is read.

    With ``notes``, a folder, the sizes of images are those that another planner has left there, where it has.
    """

    def __init__(self, samples: Iterable[RawSample], shard_bytes: int, notes: Path | None = None) -> None:
        if shard_bytes <= 0:
            raise InputError(f"shard_bytes {shard_bytes}, expected a positive number of bytes")
        self._sized: Iterator[tuple[RawSample, FileSize]] = shared(samples, notes) if notes else looked_up(samples)
        self._shard_bytes = shard_bytes
        self._keys = KeySet()
        self._unchecked: list[RawSample] = []
        self.missing: list[dict[str, Any]] = []

    def chunks(self) -> Iterator[Chunk]:
        """The chunks in order; raises InputError on a key that occurs twice, or when there is no image at all."""
        number, held, sizes, total = 0, list[RawSample](), list[int](), 0
        for sample, size in self._present():
            if held and (total + size > self._shard_bytes or len(held) == SHARD_SAMPLES):
                self._check_keys()
                yield Chunk(number, tuple(held), tuple(sizes))
                number, held, sizes, total = number + 1, [], [], 0
            held.append(sample)
            sizes.append(size)
            total += size
        self._check_keys()
        if held:
            yield Chunk(number, tuple(held), tuple(sizes))
        elif self.missing:
            raise InputError(
                f"{self.missing[0]['file']}: no such image, nor any other of {len(self.missing)}; expected the folder"
                " that holds the images, check --images and --root"
            )
        else:
            raise InputError("the source yields no image; check --split and --root")

    def _present(self) -> Iterator[tuple[RawSample, int]]:
        for sample, found in self._sized:
            key = sample.record.key
            self._unchecked.append(sample)
            if len(self._unchecked) == SHARD_SAMPLES:  # of which many may be missing, and in no chunk
                self._check_keys()
            if len(key) > _KEY_LENGTH:
                raise InputError(
                    f"{sample.image}: key {key!r} is longer than the {_KEY_LENGTH} characters of a tar name"
                )
            if isinstance(found, int):
                yield sample, found
            else:
                self.missing.append({"file": str(sample.image), "key": key, "region": None, "reason": found})

    def _check_keys(self) -> None:
        """Raises InputError where a key of the samples since the last call was there before: in no chunk yet."""
        unchecked, self._unchecked = self._unchecked, []
        again = self._keys.add([sample.record.key for sample in unchecked])
        if again is not None:
            raise InputError(
                f"{unchecked[again].image}: key {unchecked[again].record.key!r} occurs twice in this build; expected"
                " one record an image, the image ids different in letters, digits and dashes"
            )


def plan(samples: Iterable[RawSample], shard_bytes: int = SHARD_BYTES) -> Plan:
    """The plan of `shards.build.builder.build` for these samples; reads no image. Raises InputError as it does."""
    planner = Planner(samples, shard_bytes)
    count = shards = total = 0
    for chunk in planner.chunks():
        count += len(chunk.samples)
        shards += 1
        total += sum(chunk.sizes)
    return Plan(count, shards, total, len(planner.missing))
