"""How large the image files of a build are; the tasks of an array tell each other, so that one looks for all.

The cut into shards follows from the sizes of all images, so each task needs them. The first that comes to a block of
images looks at each file and publishes what it found beside the parts; the others read that. Nobody waits and nothing
is locked: tasks that come to a block together all look, and publish the same.

What is published may be old, and need not be right: sizes decide which images a task puts together, and the build that
ends the array looks at every file itself and writes again what was put together otherwise. So it must not read these.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from laconvnet.files import is_unreadable, publish_bytes, read_bytes, retried
from laconvnet.shards.format.raw import RawSample

BLOCK = 2_000  # images, whose records a task holds
_NAMES_NOTHING = (errno.ENAMETOOLONG, errno.ELOOP)  # no file can be there
_UNKNOWN = -1
_DIGEST_BYTES = 16
_PREFIX = ".sizes-"  # with a dot, as all in these folders that is no result

FileSize = int | str  # the size of a file in bytes, or why there is none
Sizes = NDArray[np.int64]


def looked_up(samples: Iterable[RawSample]) -> Iterator[tuple[RawSample, FileSize]]:
    """Each sample with the size of its image file in bytes, looked at when it is requested.

    Raises OSError where a file is there and cannot be looked at.
    """
    for sample in samples:
        yield sample, _look(sample.image)


def unseen(samples: Iterable[RawSample]) -> Iterator[tuple[RawSample, FileSize]]:
    """Each sample as if its image were there, without looking."""
    return ((sample, 0) for sample in samples)


def shared(samples: Iterable[RawSample], folder: Path) -> Iterator[tuple[RawSample, FileSize]]:
    """As `looked_up`, a block at a time, by what another task has published in ``folder``, where it has.

    A file that was not there is looked at by every task: it may have come since.
    """
    stream = iter(samples)
    number = 0
    while block := tuple(islice(stream, BLOCK)):
        file = folder / f"{_PREFIX}{number:06d}"
        before = _read(file, block)
        found = [
            size if size != _UNKNOWN else _look(sample.image)
            for sample, size in zip(block, before.tolist(), strict=True)
        ]
        sizes = np.array([size if isinstance(size, int) else _UNKNOWN for size in found], np.int64)
        if (sizes != before).any():
            publish_bytes(file, _digest(block, sizes) + sizes.tobytes())
        yield from zip(block, found, strict=True)
        number += 1


def forget(folder: Path) -> None:
    """Remove what tasks have published in ``folder``."""
    for file in folder.glob(f"{_PREFIX}*"):
        file.unlink(missing_ok=True)


def _look(image: Path) -> FileSize:
    try:
        found = retried(image, image.stat)
    except OSError as error:
        if is_unreadable(error) and error.errno not in _NAMES_NOTHING:
            raise
        return f"missing: {error.strerror}"
    return found.st_size if stat.S_ISREG(found.st_mode) else "missing: not a regular file"


def _read(file: Path, block: tuple[RawSample, ...]) -> Sizes:
    """The sizes (N,) that are known of a block: none where nothing is published, or that of other images."""
    try:
        data = read_bytes(file)
    except FileNotFoundError:
        data = b""
    if len(data) == _DIGEST_BYTES + 8 * len(block):
        sizes = np.frombuffer(data, np.int64, offset=_DIGEST_BYTES)
        if data[:_DIGEST_BYTES] == _digest(block, sizes):
            return sizes
    return np.full(len(block), _UNKNOWN, np.int64)


def _digest(block: tuple[RawSample, ...], sizes: Sizes) -> bytes:
    digest = xxhash.xxh3_128(sizes.tobytes())
    for sample in block:
        digest.update(f"{sample.image}\0".encode("utf-8", "surrogateescape"))
    return digest.digest()
