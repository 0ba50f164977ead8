"""What the files say now of the pictures of a finished set: which have come, changed or gone since it was built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from operator import length_hint
from typing import Any

import pyarrow.compute as pc
import xxhash

from laconvnet.files import read_bytes
from laconvnet.progress import Progress
from laconvnet.shards.build.examine import examine
from laconvnet.shards.build.sizes import FileSize, looked_up
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.ledger import account_of
from laconvnet.shards.format.manifest import MANIFEST, Manifest
from laconvnet.shards.format.pictures import NOT_STORED
from laconvnet.shards.format.raw import RawSample, Samples, storable
from laconvnet.shards.format.rows import fit_record

_NO_FILE: dict[str, Any] = {"file_bytes": None, "file_xxh3": None}
_NOT_HERE = "which the set does not know at this place"


@dataclass(slots=True)
class Inputs:
    """The pictures of a set beside its files: how many lost ones can be used now, and of those in it are others now.

    ``gone`` are pictures of the set whose files are no longer there, which is no fault, or not usable now. ``useless``
    are the reasons, with the file, of lost ones that were tried again and cannot be used.
    """

    come: int = 0
    changed: int = 0
    gone: list[str] = field(default_factory=list)
    useless: list[str] = field(default_factory=list)


def inputs_now(manifest: Manifest, samples: Iterable[RawSample], retry: bool = False, progress: bool = True) -> Inputs:
    """Look at the files of a built set, given anew by its source.

    A lost picture is tried again where its file has come, or is younger than the set or other bytes, with ``retry`` in
    any case. A picture of the set has changed where its file has another size, or is younger than its shard and other
    bytes. Raises InputError where the annotations are not those that the set was built from.
    """
    found = Inputs()
    published = (manifest.folder / MANIFEST).stat().st_mtime_ns
    rows = _rows(manifest)
    expected = next(rows, None)
    lost = _Lost(manifest)
    total = length_hint(samples) or None
    for sample, size in Progress(looked_up(samples), "inputs", total, unit="image", disable=not progress):
        key = sample.record.key
        is_expected = expected is not None and key == expected["key"]
        if expected is not None and is_expected and _is_told_of(sample, expected):
            _look(found, sample, size, expected)
            expected = next(rows, None)
        elif (row := lost.find(sample)) is None:
            known = f"what they tell of {key} differs" if is_expected else f"they tell of {key}, {_NOT_HERE}"
            raise _other_annotations(manifest, known)
        elif isinstance(size, int) and _is_worth_a_try(sample, size, row, published, retry):
            _try(found, sample)
    if expected is not None:
        raise _other_annotations(manifest, f"they tell nothing of {expected['key']}")
    _compare_counts(manifest, samples)
    return found


def _rows(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The samples in their order, with what is known of their files, and when these had been read (``written``)."""
    files = _files(manifest)
    times = [shard.stat().st_mtime_ns for shard in manifest.shard_paths]
    for batch in manifest.samples.select(["key", "width", "height", "json_xxh3", "shard"]).to_batches():
        for row in batch.to_pylist():
            yield row | next(files) | {"written": times[row["shard"]]}


def _files(manifest: Manifest) -> Iterator[dict[str, Any]]:
    if manifest.pictures is None:  # it was built before images were known by their content
        yield from repeat(_NO_FILE)
        return
    for batch in manifest.pictures.select(["row", "file_bytes", "file_xxh3"]).to_batches():
        yield from (row for row in batch.to_pylist() if row["row"] != NOT_STORED)


class _Lost:
    """The pictures of a set that are lost. Two of one key, of which the set has one at most, differ in their ids."""

    def __init__(self, manifest: Manifest) -> None:
        quarantine = manifest.quarantine().to_pylist()
        self._causes = {(row["key"], row["id"]): row["cause"] for row in quarantine if row["kind"] == "picture"}
        self._files: dict[tuple[str, str], dict[str, Any]] = {}
        names = ["key", "file_name", "row", *_NO_FILE]
        for batch in manifest.pictures.select(names).to_batches() if manifest.pictures is not None else ():
            for row in batch.filter(pc.equal(batch["row"], NOT_STORED)).to_pylist():
                self._files[row["key"], row["file_name"]] = {name: row[name] for name in _NO_FILE}

    def find(self, sample: RawSample) -> dict[str, Any] | None:
        """Why it is lost, and what is known of its file; None where it is not."""
        key, id, file_name = map(storable, (sample.record.key, sample.record.picture_id, sample.record.file_name))
        cause = self._causes.get((key, id))
        return None if cause is None else {"cause": cause, **self._files.get((key, file_name), _NO_FILE)}


def _is_told_of(sample: RawSample, row: dict[str, Any]) -> bool:
    """Whether the annotations tell of this sample what they told of that in the set."""
    record, _ = fit_record(sample.record, row["width"], row["height"], str(sample.image))
    return bool(xxhash.xxh3_64_intdigest(record.to_json()) == row["json_xxh3"])


def _compare_counts(manifest: Manifest, samples: Iterable[RawSample]) -> None:
    account = samples.account if isinstance(samples, Samples) else None
    if account is None:
        return
    ledger = manifest.meta["ledger"]
    entries = {*account.read, *((split, kind) for split, accounts in ledger.items() for kind in accounts)}
    for split, kind in sorted(entries):
        before, now = account_of(ledger, split, kind)["read"], account.read[split, kind]
        if before != now:
            told = f"they have {now} {kind} entries of split {split or 'unknown'}, the set was built from {before}"
            raise _other_annotations(manifest, told)


def _other_annotations(manifest: Manifest, what: str) -> InputError:
    return InputError(
        f"{manifest.folder}: holds a set built from other annotations, or by a version that reads them otherwise: "
        f"{what}; give another --out, or delete that folder to build it from these"
    )


def _look(found: Inputs, sample: RawSample, size: FileSize, row: dict[str, Any]) -> None:
    if not isinstance(size, int):
        found.gone.append(str(sample.image))
    elif row["file_bytes"] is not None and _has_changed(sample, size, row):
        if examine(sample).image is None:
            found.gone.append(str(sample.image))
        else:
            found.changed += 1


def _has_changed(sample: RawSample, size: int, row: dict[str, Any]) -> bool:
    is_younger = sample.image.stat().st_mtime_ns > row["written"]
    return size != row["file_bytes"] or (is_younger and _has_other_bytes(sample, row))


def _has_other_bytes(sample: RawSample, row: dict[str, Any]) -> bool:
    return bool(xxhash.xxh3_64_intdigest(read_bytes(sample.image)) != row["file_xxh3"])


def _is_worth_a_try(sample: RawSample, size: int, row: dict[str, Any], published: int, retry: bool) -> bool:
    """Whether the file of a lost picture may be a usable one now; its time of change, for a copy keeps the other.

    It may have become whole while the set was built, or before the set was copied: then its bytes tell.
    """
    if row["cause"] not in ("missing", "image", "size"):
        return False
    if retry or row["cause"] == "missing" or sample.image.stat().st_ctime_ns > published:
        return True
    known = row["file_bytes"] is not None
    return known and (size != row["file_bytes"] or _has_other_bytes(sample, row))


def _try(found: Inputs, sample: RawSample) -> None:
    looked = examine(sample)
    if looked.image is None or looked.record is None:
        found.useless.append(f"{sample.image}: {looked.rows[-1]['reason']}")
    else:
        found.come += 1
