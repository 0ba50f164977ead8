"""The folder of a set while it is made: whose it is, who may write there, and what is left when that ends.

A set that is built again is built in a folder of its own, ``again``, inside that of the one it replaces, which stays as
it is until the new one is whole. Then the files of the new one take the places of the old, the manifest as the last.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from laconvnet.files import publish_bytes, read_object, remove_leftovers, sync
from laconvnet.shards.build.sizes import forget
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import AGAIN, MANIFEST, PARTS, read_meta

_BUILD = "build.json"
_LOCK = ".lock"


def settings_of(source: str, licence: str, options: dict[str, Any], shard_bytes: int) -> dict[str, Any]:
    """What decides, beside the files, which set is built, as a manifest holds it."""
    settings = {"source": source, "licence": licence, "options": options, "shard_bytes": shard_bytes}
    return dict(json.loads(json.dumps(settings)))  # as it reads back: tuples are lists


def is_finished(out: Path, settings: dict[str, Any]) -> bool:
    """Whether ``out`` holds the set of these settings; raises InputError where it is that of others."""
    put_in_place(out)
    if not (out / MANIFEST).exists():
        return False
    refuse_other(out, "holds a set", read_meta(out), settings)
    if (out / PARTS).is_dir():  # the last run was killed between the manifest and the tidying
        _remove_parts(out)
    return True


def refuse_other(out: Path, what: str, found: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise InputError where what is in ``out`` was built with other settings."""
    for name, value in settings.items():
        if found.get(name) != value:
            raise InputError(
                f"{out}: {what} built with {name} {json.dumps(found.get(name))}, this command says {json.dumps(value)};"
                " give another --out or delete that folder"
            )


@contextmanager
def under_construction(out: Path, settings: dict[str, Any], lock: int) -> Iterator[None]:
    """The folder, locked, with its ``parts``; whatever happens inside, no temporary file stays behind."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: not a folder; give another --out")
    _refuse_foreign(out)
    created = not out.exists()
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        _take_lock(stack.enter_context((out / PARTS / _LOCK).open("wb")), out, lock)
        alone = lock == fcntl.LOCK_EX
        if alone:
            _remove_temporaries(out)
        try:
            _claim(out, settings)
            yield
        finally:
            if alone:
                _remove_temporaries(out)
                if (out / MANIFEST).exists():
                    _remove_parts(out)
                elif not any((out / PARTS).glob("*.parquet")):  # nothing to continue
                    for path in (*out.glob("shard-*.tar"), *out.glob("shard-*.idx")):
                        path.unlink()
                    _remove_parts(out)
                if created and not any(out.iterdir()):  # a mistake found before the first shard
                    out.rmdir()


def _refuse_foreign(out: Path) -> None:
    """The folder must be a build's, because an unfinished one may replace or remove what is in it."""
    parts = out / PARTS
    if parts.is_dir():
        foreign = [path for path in parts.iterdir() if not path.name.startswith(("shard-", _BUILD, "."))]
        if foreign:
            raise InputError(f"{foreign[0]}: no file of a build; give another --out, or move it away")
    elif any(out.glob("shard-*")):
        raise InputError(f"{out}: holds shards that no build of this program began; give another --out")


def _take_lock(stream: IO[bytes], out: Path, lock: int) -> None:
    try:
        fcntl.flock(stream, lock | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{out}: another build is writing here; wait for it or give another --out") from error
    except OSError as error:
        # Cluster file systems may be mounted without locks; the user then keeps two builds apart himself.
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise


def _claim(out: Path, settings: dict[str, Any]) -> None:
    path = out / PARTS / _BUILD
    if not path.exists():
        publish_bytes(path, json.dumps(settings, sort_keys=True).encode())
    try:
        found = read_object(path)
    except ValueError as error:
        raise InputError(f"{error}; expected what a build wrote there: delete {out} and build again") from error
    refuse_other(out, "holds an unfinished set", found, settings)


def _remove_temporaries(out: Path) -> None:
    for folder in (out, out / PARTS):
        remove_leftovers(folder)
        for path in folder.glob(".*.tmp"):  # of a build that version 0.1 began
            path.unlink(missing_ok=True)
    forget(out / PARTS)


def _remove_parts(out: Path) -> None:
    parts = out / PARTS
    forget(parts)
    for path in (*parts.glob("shard-*.parquet"), parts / _BUILD, parts / _LOCK):
        path.unlink(missing_ok=True)
    parts.rmdir()


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """The folder in which the finished set in ``out`` is built again; what is whole there then takes its place.

    Where the block raises, the set in ``out`` is the one it was, and what the build left is continued by the next.
    """
    with (out / MANIFEST).open("r+b") as stream:  # no file of its own: a set is to hold nothing but itself
        _take_lock(stream, out, fcntl.LOCK_EX)
        try:
            yield out / AGAIN
        finally:
            put_in_place(out)  # under the lock of the new one as well: a command that begins now may do the same


def put_in_place(out: Path) -> None:
    """Finish what a process was killed at: the files of a set that was built again take the places of the old ones."""
    if (out / AGAIN).is_symlink():  # to another disk, say, from where nothing can take a place here at once
        raise InputError(f"{out / AGAIN}: a link, expected a folder that a build made; remove it")
    try:
        stream = (out / AGAIN / MANIFEST).open("r+b")
    except (FileNotFoundError, NotADirectoryError):
        return
    with stream:
        _take_lock(stream, out, fcntl.LOCK_EX)
        if (out / AGAIN / MANIFEST).exists():  # or whoever had the lock has done it
            _move(out / AGAIN, out)


def _move(again: Path, out: Path) -> None:
    meta = read_meta(again)
    if (again / PARTS).is_dir():  # it was killed before it had tidied up
        _remove_parts(again)
    (out / MANIFEST).unlink(missing_ok=True)  # from here on ``out`` is unfinished, until it has the new one
    for path in again.iterdir():
        if path.name != MANIFEST:
            os.replace(path, out / path.name)
    stems = {Path(name).stem for name in meta["shards"]}
    for path in (*out.glob("shard-*.tar"), *out.glob("shard-*.idx"), *out.glob("*.arrow")):
        if path.stem not in stems and path.name not in meta["tables"]:
            path.unlink()
    sync(out)
    os.replace(again / MANIFEST, out / MANIFEST)
    again.rmdir()
    sync(out)
