"""One tar of a set: a file on this machine, or an object at a URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from laconvnet.files import pread, read_bytes, retried
from laconvnet.shards.format import remote
from laconvnet.shards.format.remote import Folder


@dataclass(frozen=True)
class Shard:
    """A shard by its name in the manifest, under a folder here or, with ``store``, under that one."""

    folder: Path
    name: str
    store: Folder | None = None

    def __str__(self) -> str:
        return self.store.place(self.name) if self.store else str(self.path)

    @property
    def path(self) -> Path:
        """The file, where it is on this machine."""
        return self.folder / self.name

    def size(self) -> int:
        """Its bytes; raises FileNotFoundError and other OSErrors, naming it."""
        return self.store.size(self.name) if self.store else retried(self.path, self.path.stat).st_size

    def read(self, length: int, offset: int) -> bytes:
        """So many bytes of it; raises OSError, naming it. Here fewer at its end; at a URL that is an OSError."""
        if self.store:
            (data,) = self.store.read([self.name], [(0, offset, length)])
            return data
        with self.path.open("rb") as stream:
            return pread(stream.fileno(), self.path, length, offset)

    def open(self) -> BinaryIO:
        """It as a stream of bytes from its begin; raises OSError, naming it."""
        return self.store.open(self.name) if self.store else retried(self.path, lambda: self.path.open("rb"))

    @property
    def pauses(self) -> tuple[float, ...]:
        """Seconds before each further attempt to read what has failed; none on this machine."""
        return remote.PAUSES_SECONDS if self.store else ()

    def failed(self, what: str) -> OSError:
        """What is raised where the last attempt has failed by this."""
        return remote.failed(str(self), what)

    def index(self) -> bytes:
        """What its DALI index holds."""
        name = self.name.removesuffix(".tar") + ".idx"
        return self.store.whole(name) if self.store else read_bytes(self.folder / name)
