"""The small files of a set that lies at a URL, on this machine: fetched once, by one process of the node.

A mirror is a folder of the user's cache with all files of a set but its shards, and `origin.json`, which says where
those are. It is named by the URL and the facts of the set: one that was built anew gets another mirror. Every file is
compared with the checksum in those facts before the mirror is there.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import xxhash

from laconvnet.files import publish_json, publishing_folder, read_object, remove_leftovers
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.checksums import file_facts
from laconvnet.shards.format.remote import Folder, WithoutRanges
from laconvnet.trust import distrusted, user_cache

ORIGIN = "origin.json"
_TAIL_BYTES = 8  # of a Parquet file: the length of its footer, and the magic
_ATTEMPTS = 2  # to fetch a file whose bytes are others than were written

Listed = Callable[[Path], Mapping[str, Mapping[str, Any]]]


def mirrored(folder: Folder, commit: str, listed: Listed) -> Path:
    """The mirror of a folder whose file ``commit``, a Parquet file, was written last; made where it is not there.

    ``listed`` gives, for a folder that holds the commit, the other files with their bytes and xxh3. Raises InputError
    where there is no commit or a file is damaged, and OSError where the store fails again and again.
    """
    caches = _cache()
    digest = _digest(folder, commit)
    mirror = caches / f"set-{digest}"
    if mirror.is_dir():
        return mirror
    with (caches / f".{mirror.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mirror.is_dir():  # or another process has made it meanwhile
            remove_leftovers(caches, mirror.name)
            with publishing_folder(mirror) as partial:
                folder.get(commit, partial / commit)
                if _digest_fetched(folder, partial / commit) != digest:  # or the name would be that of another set
                    raise InputError(f"{folder.url}: another set came there meanwhile; run the same command again")
                for name, facts in _listed(listed, partial, folder).items():
                    if PurePath(name).name != name:  # whoever wrote it must not choose where it goes
                        raise InputError(f"{folder.place(commit)}: names a file {name!r}, expected a name alone")
                    _fetch(folder, name, facts, partial / name)
                publish_json(partial / ORIGIN, {"url": folder.url})
    return mirror


def _listed(listed: Listed, partial: Path, folder: Folder) -> Mapping[str, Mapping[str, Any]]:
    try:
        return listed(partial)
    except InputError as error:  # of the file that was fetched, which is gone when this is read
        raise InputError(str(error).replace(str(partial), folder.url)) from error


def origin(folder: Path) -> Folder | None:
    """Where the shards of a mirror are; None of a folder that is none."""
    if not (folder / ORIGIN).is_file():
        return None
    try:
        return Folder(str(read_object(folder / ORIGIN)["url"]))
    except (ValueError, KeyError) as error:
        raise InputError(f"{folder / ORIGIN}: damaged ({error}); delete {folder}, it is fetched again") from error


@contextmanager
def repairable(folder: Path) -> Iterator[None]:
    """Within, an InputError of a file of a mirror says how that comes to be whole again."""
    try:
        yield
    except InputError as error:
        found = origin(folder)
        if found is None:
            raise
        raise InputError(f"{error}; or delete {folder}, which is fetched again from {found.url}") from error


def own_cache(variable: str, name: str, what: str) -> Path:
    """The folder that the variable names, else ``name`` in the user's cache folder: this user's alone.

    Raises InputError where there is no home, and for a folder that others can write; ``what`` is kept there.
    """
    try:
        place = user_cache(variable, name)
    except RuntimeError as error:
        raise InputError(f"{error}; let {variable} name a folder for {what}") from error
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if why := distrusted(place):
        raise InputError(f"{why}: {what} are not read from it; let {variable} name a folder of your own")
    return place


def _cache() -> Path:
    return own_cache("LACONVNET_SET_CACHE", "sets", "tables of sets")


def _digest(folder: Folder, commit: str) -> str:
    """Of the URL and the footer of the commit, in which the facts of the set are."""
    try:
        size = folder.size(commit)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder.url}: no {commit} there, so no finished set; expected what 'shards copy' has put there"
        ) from error
    try:
        return _digest_of(folder, size, lambda begin, length: folder.read([commit], [(0, begin, length)])[0])
    except WithoutRanges:
        with tempfile.TemporaryDirectory() as place:
            folder.get(commit, Path(place, commit))
            return _digest_fetched(folder, Path(place, commit))


def _digest_fetched(folder: Folder, file: Path) -> str:
    data = file.read_bytes()
    return _digest_of(folder, len(data), lambda begin, length: data[begin : begin + length])


def _digest_of(folder: Folder, size: int, read: Callable[[int, int], bytes]) -> str:
    """``read`` gives bytes of the commit of ``size`` bytes, from an offset, so many."""
    tail = read(max(size - _TAIL_BYTES, 0), min(size, _TAIL_BYTES))
    begin = max(size - _TAIL_BYTES - int.from_bytes(tail[:4], "little"), 0)
    footer = read(begin, size - begin)
    return xxhash.xxh3_128_hexdigest(folder.url.encode("utf-8", "surrogateescape") + b"\0" + footer)


def _fetch(folder: Folder, name: str, facts: Mapping[str, Any], file: Path) -> None:
    for _ in range(_ATTEMPTS):
        folder.get(name, file)
        found = file_facts(file)
        if all(facts[what] == found[what] for what in found):
            return
    raise InputError(
        f"{folder.place(name)}: {found['bytes']} bytes with checksum {found['xxh3']}, the set's manifest says "
        f"{facts['bytes']} and {facts['xxh3']}; copy it there again"
    )
