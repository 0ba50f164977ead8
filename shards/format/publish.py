"""Files that are there in full or not at all: written under a temporary name, fsynced, renamed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".*.tmp"


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; what was written there becomes ``path``, or goes if the block raises."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` as ``path``, all or nothing."""
    with publishing(path) as temporary:
        temporary.write_bytes(data)


def sync_folder(folder: Path) -> None:
    """Make the renames of a folder durable, before something that relies on them is published."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed writer left; only where no other writer can be at work."""
    for path in folder.glob(TEMPORARY):
        path.unlink(missing_ok=True)
