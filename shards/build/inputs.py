"""What the files say now of the pictures of a finished set: which have come, changed or gone since it was built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from operator import length_hint
from typing import Any

import xxhash
from tqdm import tqdm

from laconvnet.files import read_bytes
from laconvnet.shards.build.examine import examine
from laconvnet.shards.build.sizes import FileSize, looked_up
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.ledger import account_of
from laconvnet.shards.format.manifest import MANIFEST, Manifest
from laconvnet.shards.format.pictures import NOT_STORED
from laconvnet.shards.format.raw import RawSample, Samples
from laconvnet.shards.format.rows import fit_record


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

    A lost picture is tried again where its file has come or changed since, with ``retry`` in any case. A picture of the
    set has changed where its file has another size, or is younger than the set and other bytes. Raises InputError
    where the annotations are not those that the set was built from.
    """
    found = Inputs()
    published = (manifest.folder / MANIFEST).stat().st_mtime_ns
    rows = _rows(manifest)
    expected = next(rows, None)
    lost = {row["key"]: row["cause"] for row in manifest.quarantine().to_pylist() if row["kind"] == "picture"}
    total = length_hint(samples) or None
    for sample, size in tqdm(looked_up(samples), "inputs", total, unit="image", disable=not progress):
        key = sample.record.key
        if expected is not None and key == expected["key"]:
            _compare(manifest, sample, expected)
            _look(found, sample, size, expected, published)
            expected = next(rows, None)
        elif key not in lost:
            raise _other_annotations(manifest, f"they tell of {key}, which the set does not know at this place")
        elif isinstance(size, int) and _is_worth_a_try(sample, lost[key], published, retry):
            _try(found, sample)
    if expected is not None:
        raise _other_annotations(manifest, f"they tell nothing of {expected['key']}")
    _compare_counts(manifest, samples)
    return found


def _rows(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The samples in their order, with what is known of their files."""
    files = _files(manifest)
    for batch in manifest.samples.select(["key", "width", "height", "json_xxh3"]).to_batches():
        for row in batch.to_pylist():
            yield row | next(files)


def _files(manifest: Manifest) -> Iterator[dict[str, Any]]:
    if manifest.pictures is None:  # it was built before images were known by their content
        yield from repeat({"file_bytes": None, "file_xxh3": None})
        return
    for batch in manifest.pictures.select(["row", "file_bytes", "file_xxh3"]).to_batches():
        yield from (row for row in batch.to_pylist() if row["row"] != NOT_STORED)


def _compare(manifest: Manifest, sample: RawSample, row: dict[str, Any]) -> None:
    record, _ = fit_record(sample.record, row["width"], row["height"], str(sample.image))
    if xxhash.xxh3_64_intdigest(record.to_json()) != row["json_xxh3"]:
        raise _other_annotations(manifest, f"what they tell of {row['key']} differs")


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


def _look(found: Inputs, sample: RawSample, size: FileSize, row: dict[str, Any], published: int) -> None:
    if not isinstance(size, int):
        found.gone.append(str(sample.image))
    elif row["file_bytes"] is not None and _has_changed(sample, size, row, published):
        if examine(sample).image is None:
            found.gone.append(str(sample.image))
        else:
            found.changed += 1


def _has_changed(sample: RawSample, size: int, row: dict[str, Any], published: int) -> bool:
    if size != row["file_bytes"]:
        return True
    if sample.image.stat().st_mtime_ns <= published:
        return False
    return bool(xxhash.xxh3_64_intdigest(read_bytes(sample.image)) != row["file_xxh3"])


def _is_worth_a_try(sample: RawSample, cause: str, published: int, retry: bool) -> bool:
    """Whether the file of a lost picture may be a usable one now; its time of change, for a copy keeps the other."""
    if cause not in ("missing", "image", "size"):
        return False
    return retry or cause == "missing" or sample.image.stat().st_ctime_ns > published


def _try(found: Inputs, sample: RawSample) -> None:
    looked = examine(sample)
    if looked.image is None:
        found.useless.append(f"{sample.image}: {looked.rows[-1]['reason']}")
    else:
        found.come += 1
