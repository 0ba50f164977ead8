"""Sets at a URL that fsspec knows: an object store (S3, GCS, ...) or a web server that answers requests for ranges.

The tables of such a set are kept on this machine (`shards.format.mirror`); of its shards ranges are read when they are
wanted. Whatever a store fails at is tried again for a while, for requests over a network do fail.
"""

from __future__ import annotations

import errno
import io
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from laconvnet.shards.errors import InputError, joined

T = TypeVar("T")
Range = tuple[int, int, int]  # shard, offset, length

# One slash is enough: a URL that was made a Path has lost the other.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+(?:::[A-Za-z0-9+.-]+)*):/+(?=[^/])")
PAUSES_SECONDS = (0.1, 0.5, 2.0, 5.0, 10.0)  # before each further attempt
_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of the disk that is written here: it stays so
_GONE = (404, 410)  # what a web server says of what is not there
_READ_BYTES = 2**20  # of a file that is read from its begin
_BLOCK_BYTES = 4 * 2**20  # of such a file, where the store gives it in ranges
_SILENT_SECONDS = 60  # after which a web server in the middle of an answer is given up
_TOLD = ("ETag", "etag", "md5Hash", "LastModified", "updated", "mtime", "created")  # by one store or another
_ANSWERS = (FileNotFoundError, PermissionError, InputError)  # of the store: another attempt gets the same


def url_of(place: Path | str) -> str | None:
    """The URL that this is; None for a path on this machine."""
    text = str(place)
    found = _URL.match(text)
    return f"{found[1]}://{text[found.end() :]}".rstrip("/") if found and found[1] != "file" else None


def spelled(place: Path | str) -> str:
    """A place as one would write it: a URL with both of its slashes, else the path."""
    return url_of(place) or str(place)


class WithoutRanges(OSError):
    """A server that answers requests for ranges with whole files."""


@dataclass(frozen=True)
class Folder:
    """A folder, or the objects under a prefix, at a URL. Methods take names under it.

    Each raises FileNotFoundError and PermissionError where the store says so, and OSError with the URL and what it last
    said where it fails at that again and again.
    """

    url: str

    @cached_property
    def _found(self) -> tuple[Any, str]:
        import fsspec

        if self.url.startswith("http") and re.search(r"[?#]", self.url):
            raise InputError(f"{self.url}: expected the URL of a folder: names of files come behind it, so no ? nor #")
        try:
            system, path = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            known = "expected one that fsspec knows, with its package installed, such as s3fs for s3://"
            raise InputError(f"{self.url}: no store that can be reached ({joined(error)}); {known}") from error
        return system, path.rstrip("/")

    def place(self, name: str) -> str:
        """The URL of a file."""
        return _under(self.url, name)

    def size(self, name: str) -> int:
        """The size of a file in bytes."""
        return int(self._tried(name, lambda system, path: system.info(path)["size"]))

    def size_if_there(self, name: str) -> int | None:
        """The size of a file in bytes; None where there is none."""
        try:
            return self.size(name)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        return self.size_if_there(name) is not None

    def get(self, name: str, file: Path, size: int | None = None) -> None:
        """Write a file of the store to this machine; with ``size`` another number of bytes is a fault of the store."""

        def fetch(system: Any, path: str) -> None:
            system.get_file(path, str(file))
            if size is not None and (found := file.stat().st_size) != size:
                raise OSError(errno.EIO, f"{found} bytes came of {size}")

        self._tried(name, fetch)

    def listed(self) -> dict[str, dict[str, Any]]:
        """The names of all files below, each with its bytes and what the store tells that changes with its content.

        Raises InputError for a web server, which lists none.
        """
        if self.url.startswith("http"):
            raise InputError(f"{self.url}: a web server lists no files; expected a folder, or a store such as s3://")
        found = self._tried("", lambda system, path: system.find(path.rstrip("/"), detail=True))
        _, folder = self._found
        begin = len(folder) + 1
        return {
            path[begin:]: {"bytes": facts["size"], "told": [str(facts[key]) for key in _TOLD if key in facts]}
            for path, facts in found.items()
        }

    def put(self, file: Path, name: str) -> None:
        """Write a file of this machine to the store: there it is whole, or it is not."""
        self._tried(name, lambda system, path: system.put_file(str(file), path))

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        self._tried(name, lambda system, path: system.pipe_file(path, data))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._tried(name, lambda system, path: system.rm_file(path))

    def whole(self, name: str) -> bytes:
        """The bytes of a small file."""
        (data,) = self.read([name], [(0, 0, self.size(name))])
        return data

    def open(self, name: str) -> BinaryIO:
        """A file of the store to be read from its begin on, by one request where the store is a web server."""
        options: dict[str, Any] = {"block_size": _BLOCK_BYTES}
        if self.url.startswith("http"):
            import aiohttp

            # For as long as it takes: whoever reads may be slower than the store.
            patience = aiohttp.ClientTimeout(total=None, sock_connect=_SILENT_SECONDS, sock_read=_SILENT_SECONDS)
            options = {"block_size": 0, "size": -1, "timeout": patience}
        return io.BufferedReader(
            self._tried(name, lambda system, path: system.open(path, "rb", **options)), _READ_BYTES
        )

    def read(self, names: Sequence[str], ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range (number of its name, offset, length), at the same time where the store can.

        Raises WithoutRanges where it answers with more than was asked for.
        """
        found: dict[int, bytes] = {}
        faults: dict[int, str] = {}
        for pause in (0.0, *PAUSES_SECONDS):
            time.sleep(pause)
            left = [place for place in range(len(ranges)) if place not in found]
            faults.clear()
            answers = self._ranges([names[ranges[place][0]] for place in left], [ranges[place] for place in left])
            for place, answer in zip(left, answers, strict=True):
                if isinstance(answer, _ANSWERS) and self._is_answer(answer):
                    raise self._named(answer, names[ranges[place][0]])
                if isinstance(answer, bytes) and len(answer) > ranges[place][2]:
                    raise _without_ranges(self.place(names[ranges[place][0]]))
                fault = _fault(answer, ranges[place][2])
                if fault is None:
                    found[place] = answer
                else:
                    faults[place] = fault
            if not faults:
                return [found[place] for place in range(len(ranges))]
        place, fault = next(iter(faults.items()))
        raise failed(self.place(names[ranges[place][0]]), fault)

    def _ranges(self, names: Sequence[str], ranges: Sequence[Range]) -> list[Any]:
        system, folder = self._found
        begins = [offset for _, offset, _ in ranges]
        ends = [offset + length for _, offset, length in ranges]
        try:
            return list(system.cat_ranges([_under(folder, name) for name in names], begins, ends, on_error="return"))
        except Exception as error:  # each store has its own
            return [error] * len(ranges)

    def _tried(self, name: str, call: Callable[[Any, str], T]) -> T:
        system, folder = self._found
        for pause in (0.0, *PAUSES_SECONDS):
            time.sleep(pause)
            try:
                return call(system, _under(folder, name))
            except Exception as error:  # each store has its own
                if isinstance(error, _ANSWERS) and self._is_answer(error):
                    raise self._named(error, name) from error
                if isinstance(error, OSError) and error.errno in _OURS:
                    raise
                last = error
        raise failed(self.place(name), _told(last.__cause__ or last)) from last

    def _is_answer(self, error: BaseException) -> bool:
        """Whether the store itself says so; fsspec says "not found" of whatever a web server fails at."""
        if not isinstance(error, FileNotFoundError) or not self.url.startswith("http"):
            return True
        return error.__cause__ is None or getattr(error.__cause__, "status", None) in _GONE

    def _named(self, error: BaseException, name: str) -> BaseException:
        """The same of a file by its URL, which most stores do not name; one of this machine is named already."""
        if isinstance(error, FileNotFoundError) and error.filename is None:
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.place(name))
        return error


def _under(folder: str, name: str) -> str:
    """The place of a name; sets that were put together name shards beside their folder."""
    while name.startswith("../"):
        folder, name = folder.rpartition("/")[0], name.removeprefix("../")
    return f"{folder}/{name}"


def _fault(answer: object, length: int) -> str | None:
    if isinstance(answer, BaseException):
        return _told(answer)
    assert isinstance(answer, bytes)
    if len(answer) == length:
        return None
    return f"{len(answer)} bytes came of a range of {length}"


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {joined(error)}"


def _without_ranges(url: str) -> WithoutRanges:
    what = "answered with more than the range that was asked for; set data.streams to read whole shards"
    return WithoutRanges(errno.EOPNOTSUPP, what, url)


def failed(url: str, what: str) -> OSError:
    """What is raised of a store that has failed again and again, at last by this."""
    return OSError(errno.EIO, f"failed {len(PAUSES_SECONDS) + 1} times, at last: {what}", url)
