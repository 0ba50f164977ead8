"""Memory that outlives a rank: that it lives, how far it is, and the newest state that it has put there.

A supervisor makes it and hands the descriptors to the rank it starts. It is anonymous (memfd): no name of it can be
left behind, no other user can open it, and it is gone with the last process that holds it. Nothing here knows torch: a
state is the bytes of a checkpoint's `state.pt`.

A state is written beside the one before, and counts only once its record stands on the board: a rank that is killed
while it writes leaves the one before.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import xxhash

from laconvnet.pipeline.runs.checkpoints import Facts

MEMORY = "LACONVNET_MEMORY"  # names the descriptors to the rank
_NAME = "laconvnet"
_BEATS, _STEPS = 0, 8  # where the two counts stand on the board
_RECORDS, _RECORD_BYTES = 1024, 16384
_SLOTS = 2
_BOARD_BYTES = _RECORDS + _SLOTS * _RECORD_BYTES
_SUM_BYTES = 8


@dataclass(frozen=True)
class Record(Facts):
    """What a state is of: what its commit marker would say, the run, and the run's owner (its token).

    ``bytes`` is the length of the state.
    """

    run: str = ""
    owner: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Kept:
    """A whole state: its record, a path that opens its bytes, and the vocabulary's text."""

    record: Record
    file: Path
    vocabulary: str


class Memory:
    """A board, and where ``keeps`` says so two slots for states; of a rank, seen by the rank and by its supervisor."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self.descriptors = tuple(descriptors)
        self._board = mmap.mmap(self.descriptors[0], _BOARD_BYTES)

    @classmethod
    def make(cls, keeps: bool) -> Memory:
        """Memory that holds nothing yet; the descriptors are closed in what this process starts, but for `pass_fds`."""
        names = ["board", *(["vocabulary", "state", "state"] if keeps else [])]
        descriptors = [os.memfd_create(f"{_NAME}-{name}", os.MFD_CLOEXEC) for name in names]
        os.ftruncate(descriptors[0], _BOARD_BYTES)
        return cls(descriptors)

    @classmethod
    def inherited(cls) -> Memory | None:
        """What a supervisor has handed to this process; None where there is none.

        Nor for what a rank starts: that inherits the variable, and not the descriptors it names.
        """
        given = [int(number) for number in os.environ.get(MEMORY, "").split(",") if number]
        return cls(given) if given and all(map(_is_memory, given)) else None

    def variables(self) -> dict[str, str]:
        """The environment by which a process finds it."""
        return {MEMORY: ",".join(map(str, self.descriptors))}

    @property
    def keeps(self) -> bool:
        """Whether states are kept here."""
        return len(self.descriptors) > 1

    @property
    def beats(self) -> int:
        """How often the rank has said that it lives."""
        return self._count(_BEATS)

    @property
    def steps(self) -> int:
        """How many steps the run has taken, 0 before the first one of this rank."""
        return self._count(_STEPS)

    def beat(self) -> None:
        struct.pack_into("<Q", self._board, _BEATS, self.beats + 1)

    def reach(self, steps: int) -> None:
        """The run has taken so many steps."""
        struct.pack_into("<Q", self._board, _STEPS, steps)

    def newest(self) -> Kept | None:
        """The newest whole state, None where there is none; both slots hold states of one run."""
        found = [(record, slot) for slot in self._slots if (record := self._record(slot))]
        if not found:
            return None
        record, slot = max(found, key=lambda pair: pair[0].step)
        text = Path(self._path(1)).read_text(encoding="utf-8")
        return Kept(record, self._path(2 + slot), text)

    @contextmanager
    def writing(self, record: Record, vocabulary: str) -> Iterator[BinaryIO]:
        """A file to write a state to, in place of the older of the two; without an error it is the newest then.

        States of another run, which the same process trained before, are forgotten.
        """
        for slot in self._slots:
            if (found := self._record(slot)) and found.run != record.run:
                self._note(slot, None)
        steps = {slot: found.step if (found := self._record(slot)) else -1 for slot in self._slots}
        slot = min(steps, key=lambda slot: steps[slot])
        self._note(slot, None)
        if not any(step >= 0 for step in steps.values()):
            self._path(1).write_text(vocabulary, encoding="utf-8")  # a run's vocabulary is the same at every step
        with self._path(2 + slot).open("r+b") as file:  # pages that are there already are written anew, not made anew
            yield file
            length = file.tell()
            file.truncate()
        self._note(slot, replace(record, bytes=length))

    @property
    def _slots(self) -> range:
        return range(_SLOTS if self.keeps else 0)

    def _path(self, number: int) -> Path:
        return Path(f"/proc/self/fd/{self.descriptors[number]}")

    def _count(self, place: int) -> int:
        found: int = struct.unpack_from("<Q", self._board, place)[0]
        return found

    def _record(self, slot: int) -> Record | None:
        begin = _RECORDS + slot * _RECORD_BYTES
        kept = self._board[begin : begin + _RECORD_BYTES]
        text = kept[_SUM_BYTES:].rstrip(b"\0")
        return Record(**json.loads(text)) if text and kept[:_SUM_BYTES] == _sum(text) else None

    def _note(self, slot: int, record: Record | None) -> None:
        text = json.dumps(asdict(record)).encode() if record else b""
        begin = _RECORDS + slot * _RECORD_BYTES
        self._board[begin : begin + _RECORD_BYTES] = (_sum(text) + text).ljust(_RECORD_BYTES, b"\0")


def _is_memory(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"/memfd:{_NAME}-")
    except OSError:
        return False


def _sum(text: bytes) -> bytes:
    return xxhash.xxh3_64_digest(text)
