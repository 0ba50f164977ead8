"""Members of remote shards kept on a disk of this machine, shared by its processes.

A file is named by checksum and length of what it holds, which the manifest knows: sets and runs share it, and what is
read from it is compared as what comes from the store. A process that is killed leaves nothing half. The folder has to
be the user's alone.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import xxhash

from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import complain
from laconvnet.trust import distrusted

_LOCK, _COUNT = ".lock", ".bytes"
_KEPT = 7 / 8  # of the limit, after the oldest have gone
_BLOCK = 4096  # that a file takes of the disk, and a multiple of


class Known(NamedTuple):
    """By what the bytes of a member are known."""

    xxh3: int
    length: int


class Cache:
    """At most ``limit`` bytes of members in a folder; what was used last stays.

    Raises ConfigError for a folder that others can write, and OSError for one that cannot be made.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if why := distrusted(folder):
            raise ConfigError(f"data.cache: {why}: nothing is read from it; name a folder of your own")
        self._broken = False
        self._once = threading.Lock()

    def get(self, member: Known) -> bytes | None:
        """The bytes of a member, None where they are not kept; what was changed on the disk goes."""
        file = self._file(member)
        try:
            data = file.read_bytes()
            if len(data) != member.length or xxhash.xxh3_64_intdigest(data) != member.xxh3:
                file.unlink(missing_ok=True)
                return None
            os.utime(file)
        except FileNotFoundError:  # never kept, or another process needed the room
            return None
        except OSError as error:
            self._give_up(error)
            return None
        return data

    def put(self, members: dict[Known, bytes]) -> None:
        """Keep these; where the disk takes no more, one line says so and nothing is kept from then on."""
        if self._broken:
            return
        try:
            with self._locked() as used:
                new = {member: data for member, data in members.items() if not self._file(member).exists()}
                if self._make_room(used, sum(map(_taken, new))):
                    for member, data in new.items():
                        self._write(self._file(member), data)
        except OSError as error:
            self._give_up(error)

    def _write(self, file: Path, data: bytes) -> None:
        # Without a sync: after a power failure a file may hold anything, and its checksum tells.
        file.parent.mkdir(mode=0o700, exist_ok=True)
        partial = file.with_name(f"{file.name}.{secrets.token_hex(4)}.partial")
        try:
            partial.write_bytes(data)
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)

    def _file(self, member: Known) -> Path:
        name = f"{member.xxh3:016x}-{member.length}"
        return self._folder / name[:2] / name

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Alone among all processes, with the bytes that are counted as used."""
        with (self._folder / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                used = int((self._folder / _COUNT).read_text())
            except (FileNotFoundError, ValueError):
                used = self._limit + 1  # unknown: it is counted
            yield used

    def _make_room(self, used: int, needed: int) -> bool:
        """Count so many bytes more, before they are written; whether there is room for them.

        What is killed before it has written them has counted too many, until files are counted the next time.
        """
        if needed > self._limit * _KEPT:
            return False
        if used + needed > self._limit:
            used = self._shrink(int(self._limit * _KEPT) - needed)
        (self._folder / _COUNT).write_text(str(used + needed))
        return True

    def _shrink(self, most: int) -> int:
        """Remove the files used longest ago until so many bytes are left; how many are."""
        found = sorted(self._files(), key=lambda one: one[0])
        used = sum(taken for _, taken, _ in found)
        for _, taken, path in found:
            if used <= most:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            used -= taken
        return used

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """When each file was used, what it takes, and its path; what killed writers have left, too."""
        for part in self._folder.iterdir():
            if part.is_dir():
                with os.scandir(part) as entries:
                    for entry in entries:
                        with suppress(FileNotFoundError):
                            found = entry.stat(follow_symlinks=False)
                            yield found.st_mtime_ns, _rounded(found.st_size), entry.path

    def _give_up(self, error: OSError) -> None:
        with self._once:
            if not self._broken:
                complain(f"data.cache: {self._folder}: {error.strerror}: nothing more is kept there")
            self._broken = True


def _taken(member: Known) -> int:
    return _rounded(member.length)


def _rounded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
