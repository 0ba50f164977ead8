"""The rows of the manifest that a task trains and is scored on, and their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from laconvnet.pipeline.data.masks import Mask, of_region
from laconvnet.pipeline.data.plan import Plan, draw, mix
from laconvnet.pipeline.data.text import EMPTY_TEXT
from laconvnet.pipeline.distributed import is_first_of_node
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format.manifest import WORDLESS, Manifest, row_type
from laconvnet.shards.format.record import Record

Kind = Literal["expression", "question"]
Rows = NDArray[np.signedinteger[Any]]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]

_FINE = 1 << 32  # steps that a probability is told apart by
_BLOCK = 1 << 18  # rows that are looked at together


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of B training examples: how the network sees them, against how they are stored.

    ``scale`` (B,) are factors of the letterboxed image, ``at`` (B, 2) where it then stands, across and down, from 0
    to 1 of the room there is; ``colour`` (B, 3) are factors of brightness, contrast and saturation.
    """

    scale: Floats
    at: Floats
    colour: Floats

    def __getitem__(self, part: slice) -> Augmentation:
        return Augmentation(self.scale[part], self.at[part], self.colour[part])


@dataclass(frozen=True)
class Examples:
    """The examples of one kind and split. ``rows`` (N,) are rows of the manifest's example table, in its order.

    They are all that a process holds of an example: 4 bytes, 8 where the table has 2^31 rows or more. The tables are
    mapped, and looked at batch by batch.

    ``empty_rows`` are those skipped because their text holds no word ("?", "..."): nothing can be asked of them.

    The methods that return columns take ``rows`` (B,) of that table, in any order.
    """

    manifest: Manifest
    kind: Kind
    split: str
    rows: Rows
    empty_rows: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def open(cls, folder: Path, kind: Kind, split: str) -> Examples:
        """Raises ConfigError, naming the splits there are, when the folder has no such example.

        Of the processes of a command on one node, one looks at every shard. Where it raises for one of them it ends,
        and its launcher ends the others, or `Ranks.each` tells them.
        """
        manifest = Manifest.open(folder, shards_too=is_first_of_node())
        examples = cls(manifest, kind, split, manifest.select(split, kind))
        if not len(examples.rows):
            known = ", ".join(sorted({f"{k} of {s}" for k, s in kinds_and_splits(manifest)}))
            raise ConfigError(f"{folder}: split {split!r}: holds no {kind}; there are: {known or 'none'}")
        empty = examples._without_words()
        return replace(examples, rows=examples.rows[~empty], empty_rows=examples.rows[empty])

    @property
    def empty_texts(self) -> int:
        return len(self.empty_rows)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the set and its tables: another build of the folder has another one."""
        return self.manifest.fingerprint

    def answered(self) -> Examples:
        """Without the questions whose answer the data set hides; raises ConfigError when it hides them all."""
        known = self._flags("answer", pc.is_valid)
        if not known.any():
            raise ConfigError(
                f"{self.manifest.folder}: split {self.split!r}: hides its answers; train on another split"
            )
        return replace(self, rows=self.rows[known])

    def check(self, with_masks: bool, without_target: bool) -> None:
        """Raises ConfigError where expressions lack what a task needs: a mask, or an object that they speak of."""
        bare = self._flags("has_mask", pc.invert)
        where = f"{self.manifest.folder}: split {self.split!r}"
        if with_masks and bare.any():
            raise ConfigError(
                f"{where}: {bare.sum()} of {len(bare)} expressions have no mask, which this task is taught and scored "
                "by; expected a set of a source with masks, such as refcoco"
            )
        empty = self._flags("x", pc.is_nan)
        if not without_target and empty.any():
            raise ConfigError(
                f"{where}: {empty.sum()} of {len(empty)} expressions speak of no object in their image; "
                "expected model.task grec, the task that may answer so, or another set"
            )

    def texts(self, rows: Rows) -> list[str]:
        """The expressions or questions at these rows (B,)."""
        return self.manifest.example_columns.values("text", rows)

    def answers(self, rows: Rows) -> list[str | None]:
        """The answers to the questions at these rows (B,); None where the data set hides it."""
        return self.manifest.example_columns.values("answer", rows)

    def human_answers(self, rows: Rows) -> list[list[str]]:
        """The answers of each of several people to the questions at these rows (B,).

        Empty where the data set gives one answer, or hides them.
        """
        return self.manifest.example_columns.values("answers", rows)

    @cached_property
    def several(self) -> bool:
        """Whether it is a set whose questions several people answered."""
        return bool(self._flags("answers", lambda answers: pc.greater(pc.list_value_length(answers), 0)).any())

    def ids(self, rows: Rows) -> list[str]:
        """The data set's own ids of the expressions or questions at these rows (B,)."""
        return self.manifest.example_columns.values("item_id", rows)

    def families(self, rows: Rows) -> list[str | None]:
        """The question families at these rows (B,); None where the data set has no families."""
        return self.manifest.example_columns.values("family", rows)

    def samples(self, rows: Rows) -> Rows:
        """Rows (B,) int64 of the sample table: the images of the examples at these rows (B,)."""
        return self.manifest.example_columns.numbers("sample", rows).astype(np.int64)

    def boxes(self, rows: Rows) -> NDArray[np.float32]:
        """Boxes (B, 4) of the referents, xywh in pixels of the stored image; NaN where there is none."""
        return np.stack([self.manifest.example_columns.numbers(name, rows) for name in ("x", "y", "w", "h")], 1)

    def regions(self, rows: Rows) -> Rows:
        """The number (B,) int64 of each example's region in the record of its image; -1 for questions."""
        return self.manifest.example_columns.numbers("region", rows).astype(np.int64)

    def masks(self, rows: Rows) -> list[Mask]:
        """The mask (height, width) of each referent, in pixels of the stored image, empty where there is none.

        Every image's record is read once a call. Raises ConfigError for a region without a mask.
        """
        records: dict[int, Record] = {}
        found = []
        for sample, region in zip(self.samples(rows).tolist(), self.regions(rows).tolist(), strict=True):
            if sample not in records:
                records[sample] = self.manifest.read_record(sample)
            found.append(of_region(records[sample], region))
        return found

    def sides(self, samples: Rows) -> tuple[Rows, Rows]:
        """Widths and heights, (B,) int64, in pixels, of the images at these rows (B,) of the sample table."""
        widths, heights = (self.manifest.sample_columns.numbers(name, samples) for name in ("width", "height"))
        return widths.astype(np.int64), heights.astype(np.int64)

    def _without_words(self) -> Flags:
        """Whether the text at each of `rows` (N,) holds no word; the set may have noted which are to be looked at."""
        stored = self.manifest.counts(self.split, self.kind, WORDLESS)
        if stored is None:
            return self._flags("text", _is_empty)
        found = stored["row"].to_numpy()[_is_empty(stored["value"]).to_numpy()]
        flags = np.zeros(len(self.rows), bool)
        flags[np.searchsorted(self.rows, found)] = True
        return flags

    def _flags(self, name: str, test: Callable[[pa.Array], pa.Array]) -> Flags:
        """The outcome (N,) of a test of this column at each of `rows`."""
        flags = np.zeros(len(self.rows), bool)
        for where, values in self.manifest.example_columns.pieces(name, self.rows):
            flags[where] = test(values).to_numpy(zero_copy_only=False)
        return flags


@dataclass(frozen=True)
class Items:
    """The items of an epoch of training: each question, or each referent with one sentence drawn anew.

    Item i has the ``count[i]`` example rows from ``first[i]`` on; both are (items,).
    """

    examples: Examples
    first: Rows
    count: Rows
    plan: Plan

    @classmethod
    def of(cls, examples: Examples, seed: int, window: int = 0, streams: int = 0) -> Items:
        """Group the examples into items and lay out their order; sets and weights come from the manifest.

        With a ``window`` the order is local, cut into ``streams`` or not: see `Plan`, whose blocks are the items that
        lie in one shard together.
        """
        rows = examples.rows
        starts = _starts(examples)
        first = rows if len(starts) == len(rows) else rows[starts]
        count = np.diff(starts, append=starts.dtype.type(len(rows)))
        described = examples.manifest.meta["sets"]
        columns = examples.manifest.sample_columns
        sizes = np.zeros(len(described), np.int64)
        blocks = [np.zeros(1, np.int64)]

        def set_and_shard(part: slice) -> Rows:
            samples = examples.samples(first[part])
            return np.stack([columns.numbers("set", samples), columns.numbers("shard", samples)])

        for at, keys, steps in _blockwise(len(first), set_and_shard):
            assert (steps[0] >= 0).all(), "samples of a merged manifest stand set after set"
            sizes += np.bincount(keys[0], minlength=len(sizes))
            blocks.append(at + np.flatnonzero(steps.any(0)))
        weights = tuple(float(entry["weight"]) for entry in described)
        plan = Plan(tuple(sizes.tolist()), weights, seed, window, np.concatenate(blocks), streams)
        return cls(examples, first, count.astype(np.min_scalar_type(count.max(initial=0))), plan)

    @property
    def nbytes(self) -> int:
        """Bytes that a process holds for the order: rows of examples and items; two of them may be one array."""
        return sum({id(held): held.nbytes for held in (self.examples.rows, self.first, self.count)}.values())

    def step(self, step: int, batch: int, rank: int, world: int) -> Rows:
        """The example rows (batch / world,) of one rank in one step."""
        items, epoch_passes = self.plan.step(step, batch, rank, world)
        choice = np.zeros_like(items)
        for epoch_pass in np.unique(epoch_passes):
            here = epoch_passes == epoch_pass
            several = self.count[items[here]].astype(np.int64)
            choice[here] = draw(items[here], several, mix(self.plan.seed, 3, int(epoch_pass)))
        return self.first[items] + choice

    def flips(self, step: int, batch: int, rank: int, world: int, share: float) -> Flags:
        """Which examples (batch / world,) of `step` are mirrored, with probability ``share`` in every epoch pass."""
        return self._draws(step, batch, rank, world, 5) < share

    def augmentation(
        self, step: int, batch: int, rank: int, world: int, jitter: float, colour: float
    ) -> Augmentation | None:
        """The augmentation of the examples of `step`, drawn anew in every epoch pass; None where all stay as stored.

        ``jitter`` and ``colour`` are the most that scale and colours differ from 1.
        """
        if not jitter and not colour:
            return None
        draws = np.stack([self._draws(step, batch, rank, world, 8, key) for key in range(6)], 1).astype(np.float32)
        factors = 1 + np.array([jitter, 0, 0, colour, colour, colour], np.float32) * (2 * draws - 1)
        return Augmentation(factors[:, 0], draws[:, 1:3], factors[:, 3:])

    def side(self, step: int, sizes: Sequence[int]) -> int:
        """The side of all images of `step`, one of these: drawn for the step, so the same on every rank and resume."""
        return sizes[mix(self.plan.seed, 9, step) % len(sizes)]

    def _draws(self, step: int, batch: int, rank: int, world: int, *key: int) -> NDArray[np.float64]:
        """A number in [0, 1) for each example of `step`, as a function of its item, the epoch pass and the key."""
        items, epoch_passes = self.plan.step(step, batch, rank, world)
        draws = np.zeros(len(items))
        for epoch_pass in np.unique(epoch_passes):
            here = epoch_passes == epoch_pass
            fine = np.full(here.sum(), _FINE, np.int64)
            draws[here] = draw(items[here], fine, mix(self.plan.seed, key[0], int(epoch_pass), *key[1:])) / _FINE
        return draws


def _is_empty(texts: pa.Array) -> pa.Array:
    return pc.match_substring_regex(texts, EMPTY_TEXT)


def kinds_and_splits(manifest: Manifest) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for batch in manifest.examples.select(["kind", "split"]).to_batches():
        pairs = pa.table(batch).group_by(["kind", "split"]).aggregate([])
        found.update(zip(pairs["kind"].to_pylist(), pairs["split"].to_pylist(), strict=True))
    return found


def _starts(examples: Examples) -> Rows:
    """Where in the rows of these examples an item begins."""
    rows = examples.rows
    kept = row_type(len(rows))
    if examples.kind == "question":
        return np.arange(len(rows), dtype=kept)
    begins = np.ones(len(rows), bool)

    def referents(part: slice) -> Rows:
        here = rows[part]
        return np.stack([examples.samples(here), examples.regions(here), here.astype(np.int64)])

    for at, _, steps in _blockwise(len(rows), referents):
        begins[at : at + steps.shape[1]] = (steps != [[0], [0], [1]]).any(0)
    return np.flatnonzero(begins).astype(kept)


def _blockwise(count: int, of: Callable[[slice], Rows]) -> Iterator[tuple[int, Rows, Rows]]:
    """For each block of so many rows: its first row, the keys (K, B) that ``of`` gives, their steps from row to row.

    The step of the very first row is zero.
    """
    last = None
    for at in range(0, count, _BLOCK):
        keys = of(slice(at, at + _BLOCK))
        yield at, keys, np.diff(keys, prepend=keys[:, :1] if last is None else last)
        last = keys[:, -1:]
