"""Whether the facts of a set are such as this program writes: a manifest is read like any file, and may be anybody's.

The names in them become places that are read and written, so no name may lead out of the folder of the set, but that of
a shard of a set that was put together, which lies in a folder beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import dropwhile
from typing import Any

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NEEDED = ("bytes", "xxh3")
GENERATED = "generated"  # among the options of a set whose images are generated ones, or some of those of its parts


def says_generated(meta: Mapping[str, Any]) -> bool:
    """Whether the facts of a set say that images of it are generated ones."""
    return meta.get("options", {}).get(GENERATED) is True


def wrong_facts(meta: Mapping[str, Any], tables: tuple[str, ...]) -> str | None:
    """The first fact that this program does not write, in words; ``tables`` are those that each set has."""
    return next(_wrong(meta, tables), None)


def _wrong(meta: Mapping[str, Any], tables: tuple[str, ...]) -> Iterator[str]:
    yield from _wrong_files("tables", meta["tables"], tables)
    yield from _wrong_files("files", meta.get("files", {}), ())
    shards, sets = meta["shards"], meta["sets"]
    if not isinstance(shards, list):
        yield f"shards {shards!r:.100}, expected a list of names"
    yield from (f"shard {name!r:.100}, expected a relative path of a .tar" for name in shards if not _is_shard(name))
    if not isinstance(sets, list) or not all(
        isinstance(one, dict) and {"name", "weight"} <= one.keys() for one in sets
    ):
        yield f"sets {sets!r:.100}, expected a list of names and weights"
    for name in ("ledger", "ledgers", "options"):
        if not isinstance(meta.get(name, {}), dict):
            yield f"{name} {meta[name]!r:.100}, expected an object"


def _wrong_files(what: str, files: Any, needed: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(files, dict):
        yield f"{what} {files!r:.100}, expected an object"
        return
    yield from (f"{what} without {name}" for name in needed if name not in files)
    for name, facts in files.items():
        if not _FILE_NAME.fullmatch(name):
            yield f"a file {name!r:.100} among {what}, expected a name alone"
        if not isinstance(facts, dict) or not all(fact in facts for fact in _NEEDED):
            yield f"{name} among {what} as {facts!r:.100}, expected {' and '.join(_NEEDED)}"


def _is_shard(name: object) -> bool:
    if not isinstance(name, str) or not name.endswith(".tar") or "\0" in name:
        return False
    inside = list(dropwhile(lambda part: part == "..", name.split("/")))
    return not {"", ".", ".."} & set(inside)
