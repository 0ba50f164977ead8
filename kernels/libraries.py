"""Compiled libraries on the disk: made once, believed only when whole, and of use to every later process.

A library lies in a folder of its own, beside a manifest with its length and checksum and what it was made from. The
folder's name is that of all that the library depends on; it is built elsewhere and takes the name when it is whole, so
that any number of processes may build at once: the first gives the library, the others drop theirs. A lock only saves
them the work, where the file server has locks.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.files import publish_text, publishing_folder, read_object, remove_leftovers
from laconvnet.kernels import folders
from laconvnet.kernels.compilers import BuildError, CompilerError
from laconvnet.trust import OTHERS_MAY_WRITE, distrusted

MANIFEST = "manifest.json"
# A build takes half a minute on two cores. Who has waited this long for another's builds too: it may hang.
WAIT_SECONDS = 600.0
LEFTOVER_SECONDS = 2 * 3600.0  # older than any build that still runs


@dataclass(frozen=True)
class Stored:
    """A library that was found whole: its file, and what its manifest says it was made from."""

    path: Path
    made_from: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.path.parent


class Damaged(Exception):
    """A library that is there and must not be loaded: the message names the file and what is wrong with it."""


def examine(folder: Path, library: str) -> Stored | None:
    """The library of this folder, checked byte for byte; None where there is none. Raises Damaged."""
    path = folder / library
    try:
        for part in (folder, folder / MANIFEST, path):
            if why := distrusted(part):
                raise Damaged(why)
        manifest = read_object(folder / MANIFEST)
        length, checksum = path.stat().st_size, _checksum(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not os.path.lexists(folder):
            return None
        raise Damaged(f"{path}: damaged: {error.filename} is missing") from error
    except (OSError, ValueError) as error:
        raise Damaged(f"{path}: damaged: {error}") from error
    if length != manifest.get("bytes"):
        raise Damaged(f"{path}: damaged: {length} bytes, expected {manifest.get('bytes')}")
    if checksum != manifest.get("sha256"):
        raise Damaged(f"{path}: damaged: its checksum is not that of {MANIFEST}")
    return Stored(path, manifest)


def search(pattern: str, library: str) -> Iterator[Stored]:
    """The whole libraries in folders whose name fits this pattern of `glob`; says of another why it is left alone."""
    for folder in _folders(pattern):
        try:
            found = examine(folder, library)
        except Damaged as damaged:
            folders.say(f"{damaged}: not loaded, but built anew where it is needed")
            continue
        if found is not None:
            yield found


def damage(pattern: str, library: str) -> str | None:
    """What is wrong with the first library that fits and must not be loaded; None where none is."""
    for folder in _folders(pattern):
        try:
            examine(folder, library)
        except Damaged as damaged:
            return str(damaged)
    return None


def _folders(pattern: str) -> Iterator[Path]:
    for place in folders.readable():
        yield from (folder for folder in sorted(place.glob(pattern)) if folder.is_dir())


def failure(name: str) -> Path | None:
    """The file that tells how a compiler refused the sources of this library, if one has."""
    kept = (place / _failure_file(name) for place in folders.readable())
    return next((path for path in kept if path.exists()), None)


def refused(failed: Path) -> str:
    """The message of a build that is not tried again."""
    return f"an earlier build failed: {failed}; `laconvnet kernels build` tries again"


def obtain(name: str, library: str, make: Callable[[Path], dict[str, Any]], retry: bool = False) -> Stored:
    """The library `name`, from where it is kept or made now.

    ``make`` writes the file ``library`` into the folder it is given and returns what the manifest has to say of it. A
    compiler's verdict on the sources is remembered, and not asked for again but with ``retry``. Raises BuildError.
    """
    pattern = glob.escape(name)
    if (found := next(search(pattern, library), None)) is not None:
        return found
    if (failed := failure(name)) and not retry:
        raise BuildError(refused(failed))
    reasons = []
    try:
        for place in folders.writable():
            with _turn(place, name):
                # Another process may have made it meanwhile.
                if (found := next(search(pattern, library), None)) is not None:
                    return found
                try:
                    return _make(place, name, library, make)
                except OSError as error:
                    reasons.append(f"{place}: {error.strerror or error}")
                except CompilerError as error:
                    if not error.no_room:
                        raise BuildError(f"{error}{_remember(place, name, error)}") from error
                    reasons.append(f"{place}: {error}")
            folders.say(f"{reasons[-1]}: no kernels are kept there")
    except OSError as error:
        reasons.append(str(error))
    raise BuildError(f"no folder to build the kernels in: {'; '.join(reasons)}")


def _make(place: Path, name: str, library: str, make: Callable[[Path], dict[str, Any]]) -> Stored:
    remove_leftovers(place, name, LEFTOVER_SECONDS)
    folder = place / name
    try:
        with publishing_folder(folder) as staging:
            staging.chmod(0o755)
            seal(staging, library, make(staging))
            _clear(folder, library)
    except OSError:
        with suppress(Damaged):
            if (found := examine(folder, library)) is not None:
                return found  # another process was first; ours is gone
        raise
    for kept in folders.readable():
        with suppress(OSError):
            (kept / _failure_file(name)).unlink()
    found = examine(folder, library)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "gone as soon as it was built", str(folder))
    return found


def seal(folder: Path, library: str, made_from: dict[str, Any]) -> None:
    """Write the manifest of a library that is made, and let nobody else change either."""
    path = folder / library
    manifest = {**made_from, "bytes": path.stat().st_size, "sha256": _checksum(path)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    for part in folder.iterdir():
        part.chmod(part.stat().st_mode & ~OTHERS_MAY_WRITE)


def _clear(folder: Path, library: str) -> None:
    """Make room for a library where a damaged one lies; a whole one stays."""
    try:
        examine(folder, library)
    except Damaged:
        # By a rename, at once: half of it would be no better, and a process that has it loaded goes on undisturbed.
        aside = folder.with_name(f".partial.{secrets.token_hex(4)}.{folder.name}")
        folder.rename(aside)
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def _remember(place: Path, name: str, error: CompilerError) -> str:
    """Where the compiler's words are kept, if they are its verdict, for the end of a message."""
    if not error.verdict:
        return "; that was no verdict on the sources, so the next start tries again"
    failed = place / _failure_file(name)
    try:
        publish_text(failed, error.words)
    except OSError:
        return ""
    return f"; all its words: {failed}"


def _failure_file(name: str) -> str:
    return f"{name}.failed.txt"


@contextmanager
def _turn(place: Path, name: str) -> Iterator[None]:
    """Wait for a process that makes the same library, WAIT_SECONDS at most.

    It only saves time: where the file server has no locks, or gives one to two nodes, both build and one result stays.
    """
    end = time.monotonic() + WAIT_SECONDS
    with (place / f".{name}.lock").open("a") as file:
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
            except OSError:  # ENOLCK, ENOTSUP, EIO: whatever a server says that has none
                break
        yield


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
