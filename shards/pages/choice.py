"""Which samples of a set are looked at: those that match, and of these some, drawn by a seed.

Tables alone are read, batch by batch: a set may have millions of samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.areas import SIZES, size_classes
from laconvnet.shards.format.manifest import Manifest

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an example must be to be looked at; None is no condition. ``text`` is a part of its text, in any case."""

    split: str | None = None
    source: str | None = None
    size: str | None = None
    kind: str | None = None
    text: str | None = None

    @property
    def of_examples(self) -> bool:
        """Whether some condition is on examples, not on samples alone."""
        return any(getattr(self, field.name) is not None for field in fields(self) if field.name != "source")

    def told(self) -> str:
        """The conditions as they are typed."""
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"--{name} {value}" for name, value in given if value is not None)


@dataclass(frozen=True, slots=True)
class Choice:
    """The samples drawn and their matching examples, rows of both tables (N,), ascending; how many samples match."""

    samples: Rows
    examples: Rows
    matching: int


def choose(manifest: Manifest, wanted: Wanted, keys: tuple[str, ...], number: int, seed: int) -> Choice:
    """At most ``number`` samples that match, the same for the same seed; with ``keys`` only samples of these keys.

    Raises InputError for a key that the set does not have, and where nothing matches.
    """
    matching = _samples(manifest, wanted, keys)
    if wanted.of_examples:
        having = np.zeros(len(matching), bool)
        for _, samples in _examples(manifest, wanted):
            having[samples] = True
        matching &= having
    rows = np.flatnonzero(matching)
    if not len(rows):
        there = "; ".join(f"{name}: {', '.join(known)}" for name, known in _known(manifest).items())
        raise InputError(f"{manifest.folder}: no sample matches {wanted.told() or 'these keys'}; there are {there}")
    drawn = np.sort(np.random.default_rng(seed).choice(rows, min(number, len(rows)), replace=False))
    is_drawn = np.zeros(len(matching), bool)
    is_drawn[drawn] = True
    shown = [rows[is_drawn[samples]] for rows, samples in _examples(manifest, wanted)]
    return Choice(drawn, np.concatenate(shown), len(rows))


def _samples(manifest: Manifest, wanted: Wanted, keys: tuple[str, ...]) -> Flags:
    """Whether each sample is of the source and keys that are wanted."""
    found = [np.empty(0, bool)]
    missing = set(keys)
    for batch in manifest.samples.select(["key", "source"]).to_batches():
        flags = np.ones(len(batch), bool)
        if keys:
            flags &= _flags(pc.is_in(batch["key"], pa.array(keys)))
            missing.difference_update(batch["key"].filter(pa.array(flags)).to_pylist())
        if wanted.source is not None:
            flags &= _flags(pc.equal(batch["source"], wanted.source))
        found.append(flags)
    if missing:
        raise InputError(f"{manifest.folder}: --key {min(missing)}: no sample has it; see the keys in manifest.parquet")
    return np.concatenate(found)


def _examples(manifest: Manifest, wanted: Wanted) -> Iterator[tuple[Rows, Rows]]:
    """Of each batch of examples those that are wanted, whatever their source: their rows, and their samples'."""
    columns = ["sample"]  # and what else is asked for: each column is read whole
    columns += [name for name in ("split", "kind", "text") if getattr(wanted, name) is not None]
    columns += ["w", "h"] if wanted.size is not None else []
    first = 0
    for batch in manifest.examples.select(columns).to_batches():
        rows = np.flatnonzero(_is_wanted(batch, wanted))
        yield first + rows, batch["sample"].to_numpy()[rows].astype(np.int64)
        first += len(batch)


def _is_wanted(batch: pa.RecordBatch, wanted: Wanted) -> Flags:
    flags = np.ones(len(batch), bool)
    for name in ("split", "kind"):
        if (value := getattr(wanted, name)) is not None:
            flags &= _flags(pc.equal(batch[name], value))
    if wanted.text is not None:
        flags &= _flags(pc.match_substring(batch["text"], wanted.text, ignore_case=True))
    if wanted.size is not None:
        flags &= size_classes(batch["w"].to_numpy(), batch["h"].to_numpy()) == SIZES.index(wanted.size)
    return flags


def _known(manifest: Manifest) -> dict[str, list[str]]:
    tables = {"sources": (manifest.samples, "source"), "splits": (manifest.examples, "split")}
    tables |= {"kinds": (manifest.examples, "kind")}
    return {name: sorted(pc.unique(table[column]).to_pylist()) for name, (table, column) in tables.items()}


def _flags(values: pa.Array) -> Flags:
    return np.asarray(values.to_numpy(zero_copy_only=False), bool)
