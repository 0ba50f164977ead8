"""A set to another place: from this machine to a store, or from a store to this machine; the manifest as the last.

Until that is there nobody takes the place for a set. `copying.json` tells meanwhile which set it is that comes: a copy
that was broken off goes on with the shards that are not there yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.files import publish_bytes, publishing, remove_leftovers
from laconvnet.progress import Progress
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import FILES, MANIFEST, Manifest, local_folder, meta_fingerprint, read_meta
from laconvnet.shards.format.remote import Folder, spelled, url_of

_COPYING = "copying.json"
_STALE_SECONDS = 600.0  # after which a file that nobody writes to is no longer a part of a copy


@dataclass(frozen=True)
class _Upload:
    """Files of a set on this machine to a store."""

    source: Path
    out: Folder

    def size(self, name: str) -> int | None:
        return self.out.size_if_there(name)

    def put(self, name: str) -> None:
        self.out.put(self.source / name, name)

    def note(self, data: bytes) -> None:
        self.out.write(_COPYING, data)

    def noted(self) -> bytes:
        return self.out.whole(_COPYING)

    def forget(self) -> None:
        self.out.remove(_COPYING)


@dataclass(frozen=True)
class _Download:
    """Files of a set in a store to this machine."""

    source: Folder
    out: Path

    def size(self, name: str) -> int | None:
        file = self.out / name
        return file.stat().st_size if file.is_file() else None

    def put(self, name: str) -> None:
        with publishing(self.out / name) as partial:
            self.source.get(name, partial)

    def note(self, data: bytes) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        publish_bytes(self.out / _COPYING, data)

    def noted(self) -> bytes:
        return (self.out / _COPYING).read_bytes()

    def forget(self) -> None:
        (self.out / _COPYING).unlink(missing_ok=True)


def copy(source: Path | str, out: Path | str, progress: bool = True) -> dict[str, Any]:
    """Copy a built set between this machine and a URL; returns both, its shards and bytes, and those there before.

    A set that was put together of others refers to their shards: these must have been copied before, to folders that
    lie as theirs do. Raises InputError where another set is at ``out``, and where both are on one side.
    """
    manifest = Manifest.open(source)
    target = _target(manifest, out)
    done = _is_there(manifest, target, out)
    shards = [manifest.shard(number) for number in range(len(manifest.shard_paths))]
    sizes = [shard.size() for shard in shards]
    before = 0
    with Progress(total=sum(sizes), unit="B", unit_scale=True, desc="copy", disable=not progress) as bar:
        for shard, size in zip(shards, sizes, strict=True):
            if target.size(shard.name) == size:
                before += 1
            elif "/" in shard.name:  # of a part
                raise InputError(
                    f"{out}: {shard.name} is not there with {size} bytes; copy the parts of this set first"
                )
            else:
                # The shard as the second: where it is there, so is its index.
                _put(target, (shard.name.removesuffix(".tar") + ".idx", shard.name))
            bar.update(size)
    if not done:
        _put(target, (*manifest.meta["tables"], *manifest.meta.get(FILES, {})))
        if meta_fingerprint(read_meta(local_folder(source))) != manifest.fingerprint:
            raise InputError(f"{spelled(source)}: was built again while it was copied; remove {out}, and copy it again")
        _put(target, (MANIFEST,))
        target.forget()
    places = {"source": spelled(source), "out": spelled(out)}
    return {**places, "shards": len(shards), "bytes": sum(sizes), "there_before": before}


def _target(manifest: Manifest, out: Path | str) -> _Upload | _Download:
    url = url_of(out)
    if bool(manifest.store) == bool(url):
        raise InputError(f"{out}: expected a URL where the set is on this machine, and a folder where it is at a URL")
    if url and url.startswith("http"):
        raise InputError(f"{out}: a web server is read from only; copy the folder to where it serves its files from")
    if url:
        return _Upload(manifest.folder, Folder(url))
    assert manifest.store
    remove_leftovers(Path(out), older=_STALE_SECONDS)  # of copies that were killed; another may be under way
    return _Download(manifest.store, Path(out))


def _is_there(manifest: Manifest, target: _Upload | _Download, out: Path | str) -> bool:
    """Whether the manifest is there; else it is announced. Raises InputError where it is that of another set."""
    mine = json.dumps({"set": manifest.fingerprint}).encode()
    if target.size(MANIFEST) is not None:
        if manifest.fingerprint != meta_fingerprint(read_meta(local_folder(out))):
            raise InputError(f"{out}: holds another set; give another place, or remove it")
        return True
    if target.size(_COPYING) is None:
        shard = next((name for name in manifest.meta["shards"] if "/" not in name), None)
        if shard and target.size(shard) is not None:  # of another set, or of a build that goes on
            raise InputError(f"{out}: holds {shard}, which no copy of this program began; give another place")
        target.note(mine)
    elif target.noted() != mine:
        raise InputError(
            f"{out}: holds part of another set, whose copy was broken off; give another place or remove it"
        )
    return False


def _put(target: _Upload | _Download, names: Iterable[str]) -> None:
    for name in names:
        target.put(name)
