"""Which rows of the manifest a task trains and is scored on, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from pipeline.data.masks import Mask, of_region
from pipeline.data.plan import Plan, draw, mix
from pipeline.data.text import WORDLESS
from pipeline.errors import ConfigError
from shards.manifest import EXAMPLES, MANIFEST, Manifest
from shards.record import Record

Kind = Literal["expression", "question"]
Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float32]

_FINE = 1 << 32  # steps that a probability is told apart by


@dataclass(frozen=True)
class Looks:
    """How B training examples are shown other than they are stored.

    ``scale`` (B,) are factors of the letterboxed picture, ``at`` (B, 2) where it then stands, across and down, from 0
    to 1 of the room there is; ``colour`` (B, 3) are factors of brightness, contrast and saturation.
    """

    scale: Floats
    at: Floats
    colour: Floats

    def __getitem__(self, part: slice) -> Looks:
        return Looks(self.scale[part], self.at[part], self.colour[part])


@dataclass(frozen=True)
class Examples:
    """The examples of one kind and split. ``rows`` are rows of the manifest's example table, in its order.

    ``wordless`` counts those left out because their text holds no word ("?", "..."): nothing can be asked of them.
    """

    manifest: Manifest
    kind: Kind
    split: str
    rows: Rows
    wordless: int = 0

    @classmethod
    def open(cls, folder: Path, kind: Kind, split: str) -> Examples:
        """Raises ConfigError, naming the splits there are, when the folder has no such example."""
        manifest = Manifest.open(folder)
        rows = np.asarray(manifest.select(split, kind), np.int64)
        if not len(rows):
            table = manifest.examples
            known = sorted({f"{k} of {s}" for k, s in zip(_text(table, "kind"), _text(table, "split"), strict=True)})
            raise ConfigError(f"{folder}: split {split!r}: holds no {kind}; there are: {', '.join(known) or 'none'}")
        # Taking rows of a column in several chunks joins the chunks anew at every call: 0.2 s for two million texts.
        whole = replace(
            manifest, samples=manifest.samples.combine_chunks(), examples=manifest.examples.combine_chunks()
        )
        silent = pc.match_substring_regex(whole.examples["text"].take(pa.array(rows)), WORDLESS).to_numpy(
            zero_copy_only=False
        )
        return cls(whole, kind, split, rows[~silent], int(silent.sum()))

    @cached_property
    def identity(self) -> str:
        """A digest of the manifest's two tables: another build of the folder has another one."""
        digest = xxhash.xxh3_128()
        for name in (MANIFEST, EXAMPLES):
            digest.update((self.manifest.folder / name).read_bytes())
        return digest.hexdigest()

    def answered(self) -> Examples:
        """Without the questions whose answer the data set hides; raises ConfigError when it hides them all."""
        known = self._column("answer", self.rows).is_valid().to_numpy(zero_copy_only=False)
        if not known.any():
            raise ConfigError(
                f"{self.manifest.folder}: split {self.split!r}: hides its answers; train on another split"
            )
        return replace(self, rows=self.rows[known])

    def check(self, with_masks: bool, without_target: bool) -> None:
        """Raises ConfigError where expressions lack what a task needs: a mask, or an object that they speak of."""
        bare = ~self._column("has_mask", self.rows).to_numpy(zero_copy_only=False).astype(bool)
        place = f"{self.manifest.folder}: split {self.split!r}"
        if with_masks and bare.any():
            raise ConfigError(
                f"{place}: {bare.sum()} of {len(bare)} expressions have no mask, which this task is taught and scored "
                "by; expected a set of a source with masks, such as refcoco"
            )
        empty = np.isnan(self.boxes(self.rows)[:, 0])
        if not without_target and empty.any():
            raise ConfigError(
                f"{place}: {empty.sum()} of {len(empty)} expressions speak of no object in their picture; "
                "expected model.task grec, the task that may answer so, or another set"
            )

    def texts(self, rows: Rows) -> list[str]:
        return self._column("text", rows).to_pylist()

    def answers(self, rows: Rows) -> list[str | None]:
        return self._column("answer", rows).to_pylist()

    def families(self, rows: Rows) -> list[str | None]:
        return self._column("family", rows).to_pylist()

    def samples(self, rows: Rows) -> Rows:
        """Rows of the sample table: the pictures of these examples."""
        return self._column("sample", rows).to_numpy(zero_copy_only=False).astype(np.int64)

    def boxes(self, rows: Rows) -> NDArray[np.float32]:
        """Boxes (B, 4) of the referents, xywh in pixels of the stored picture."""
        columns = [self._column(name, rows).to_numpy(zero_copy_only=False) for name in ("x", "y", "w", "h")]
        return np.stack(columns, 1).astype(np.float32)

    def regions(self, rows: Rows) -> Rows:
        """The number of each example's region in the record of its picture; -1 for questions."""
        return self._column("region", rows).to_numpy(zero_copy_only=False).astype(np.int64)

    def masks(self, rows: Rows) -> list[Mask]:
        """The mask (height, width) of each referent, in pixels of the stored picture, empty where there is none.

        Every picture's record is read once a call. Raises ConfigError for a region without a mask.
        """
        records: dict[int, Record] = {}
        found = []
        for sample, region in zip(self.samples(rows).tolist(), self.regions(rows).tolist(), strict=True):
            if sample not in records:
                records[sample] = self.manifest.read_record(sample)
            found.append(of_region(records[sample], region))
        return found

    def sides(self, samples: Rows) -> tuple[Rows, Rows]:
        """Widths and heights (B,) of these pictures in pixels."""
        table = self.manifest.samples.select(["width", "height"]).take(pa.array(samples))
        return table["width"].to_numpy().astype(np.int64), table["height"].to_numpy().astype(np.int64)

    def _column(self, name: str, rows: Rows) -> pa.ChunkedArray:
        return self.manifest.examples[name].take(pa.array(rows))


@dataclass(frozen=True)
class Items:
    """What one epoch of training passes over: each question, or each referent with one sentence drawn per visit."""

    examples: Examples
    first: Rows
    count: Rows
    plan: Plan

    @classmethod
    def of(cls, examples: Examples, seed: int, window: int = 0) -> Items:
        """Group the examples into items and lay out their order; sets and weights come from the manifest.

        With a ``window`` the order is local: see `Plan`, whose blocks are the items that lie in one shard together.
        """
        rows = examples.rows
        samples = examples.samples(rows)
        regions = examples.regions(rows)
        begins = np.ones(len(rows), bool)
        if examples.kind == "expression":
            begins[1:] = (np.diff(samples) != 0) | (np.diff(regions) != 0) | (np.diff(rows) != 1)
        starts = np.flatnonzero(begins)
        table = examples.manifest.samples
        sets = table["set"].to_numpy()[samples[starts]]
        assert (np.diff(sets) >= 0).all(), "samples of a merged manifest stand set after set"
        described = examples.manifest.meta["sets"]
        sizes = tuple(int((sets == number).sum()) for number in range(len(described)))
        shards = table["shard"].to_numpy()[samples[starts]]
        borders = np.flatnonzero((np.diff(sets) != 0) | (np.diff(shards) != 0)) + 1
        blocks = np.append(0, borders)
        plan = Plan(sizes, tuple(float(entry["weight"]) for entry in described), seed, window, blocks)
        return cls(examples, rows[starts], np.diff(np.append(starts, len(rows))), plan)

    def step(self, step: int, batch: int, rank: int, world: int) -> Rows:
        """The example rows of one rank in one step."""
        items, visits = self.plan.step(step, batch, rank, world)
        choice = np.zeros_like(items)
        for visit in np.unique(visits):
            here = visits == visit
            choice[here] = draw(items[here], self.count[items[here]], mix(self.plan.seed, 3, int(visit)))
        return self.first[items] + choice

    def flips(self, step: int, batch: int, rank: int, world: int, share: float) -> Flags:
        """Which examples of `step` are shown mirrored: drawn with probability ``share`` anew at every visit."""
        return self._lots(step, batch, rank, world, 5) < share

    def looks(self, step: int, batch: int, rank: int, world: int, jitter: float, colour: float) -> Looks | None:
        """How the examples of `step` are placed and coloured, drawn anew at every visit; None where all stay plain."""
        if not jitter and not colour:
            return None
        lots = np.stack([self._lots(step, batch, rank, world, 8, key) for key in range(6)], 1).astype(np.float32)
        factors = 1 + np.array([jitter, 0, 0, colour, colour, colour], np.float32) * (2 * lots - 1)
        return Looks(factors[:, 0], lots[:, 1:3], factors[:, 3:])

    def _lots(self, step: int, batch: int, rank: int, world: int, *key: int) -> NDArray[np.float64]:
        """A number in [0, 1) for each example of `step`, as a function of its item, the visit and the key."""
        items, visits = self.plan.step(step, batch, rank, world)
        lots = np.zeros(len(items))
        for visit in np.unique(visits):
            here = visits == visit
            fine = np.full(here.sum(), _FINE, np.int64)
            lots[here] = draw(items[here], fine, mix(self.plan.seed, key[0], int(visit), *key[1:])) / _FINE
        return lots


def _text(table: pa.Table, name: str) -> list[str]:
    return table[name].cast(pa.string()).to_pylist()
