"""How a set is distributed, by source and split: counted over its tables, batch by batch; no record is read."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from laconvnet.shards.format.areas import SIZES, size_classes
from laconvnet.shards.format.counts import ANSWER, COUNTED_COLUMNS, TOKEN, counted, summed
from laconvnet.shards.format.manifest import Manifest

Numbers = NDArray[np.int64]

MOST_EXPRESSIONS, MOST_WORDS = 10, 25  # the last place stands for these and more
SHARES = np.geomspace(1e-4, 1, 25)  # borders; what is smaller counts as the smallest
SIDES = np.geomspace(16, 8192, 37)  # borders, pixels
GRID = 24
MOST_FREQUENT = 20


@dataclass(frozen=True)
class Distribution:
    """What was counted of one split of one source.

    ``expressions`` (10,) are regions by their number of expressions, from 1, ``words`` (25,) expressions by their
    number of words, from 1, ``shares`` (24,) regions by their share of the image between `SHARES`, ``centres``
    (24, 24) regions by where the centre of their box lies, down and across, ``sides`` (36,) samples by the longer side
    of the image between `SIDES`. ``sizes`` are regions by the class of their size. The most frequent words are in
    small letters without punctuation around them; both lists are None where there are too many different ones.
    """

    source: str
    split: str
    samples: int
    questions: int
    expressions: Numbers
    words: Numbers
    shares: Numbers
    centres: Numbers
    sides: Numbers
    sizes: dict[str, int]
    frequent_words: list[tuple[str, int]] | None
    frequent_answers: list[tuple[str, int]] | None

    @property
    def name(self) -> str:
        return f"{self.source} {self.split}"

    @property
    def regions(self) -> int:
        """How many there are with an expression."""
        return int(self.expressions.sum())

    @property
    def spoken(self) -> int:
        """How many expressions there are."""
        return int(self.words.sum())


def distributions(manifest: Manifest) -> list[Distribution]:
    """Those of each source and split that the set has, by name."""
    groups = _Groups(manifest)
    table = _Tables(len(groups.names))
    for batch, group in groups.of_examples():
        _count_examples(table, batch, group, groups.sides)
    table.finish()
    for batch, group in groups.of_samples():
        table.samples += np.bincount(group, minlength=len(table.samples))
        longer = np.maximum(batch["width"].to_numpy(), batch["height"].to_numpy())
        _tally(table.sides, group, _between(longer, SIDES))
    frequent = {source: _frequent(groups, source) for source in groups.sources}
    found = []
    for number, (source, split) in enumerate(groups.names):
        if table.samples[number]:
            found.append(table.distribution(number, source, split, frequent[source]))
    return found


class _Groups:
    """The pairs of source and split of a set, by number, and which of them each row belongs to."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        columns = [(batch["source"], batch["width"], batch["height"]) for batch in self._samples()]
        self.sources: list[str] = sorted({value for source, _, _ in columns for value in source.unique().to_pylist()})
        self.of_sample = np.concatenate([_codes(source, self.sources).astype(np.int32) for source, _, _ in columns])
        self.sides = np.stack(
            [np.concatenate([column[place].to_numpy() for column in columns]) for place in (1, 2)]
        )  # (2, samples)
        found = {split for batch in self._samples("splits") for split in batch["splits"].flatten().unique().to_pylist()}
        self.splits: list[str] = sorted(found)
        self.names = [(source, split) for source in self.sources for split in self.splits]

    def _samples(self, *more: str) -> Iterator[pa.RecordBatch]:
        yield from self.manifest.samples.select(["source", "width", "height", *more]).to_batches()

    def of_examples(self) -> Iterator[tuple[pa.RecordBatch, Numbers]]:
        """Each batch of examples, and the groups (N,) of its rows."""
        names = ["sample", "split", "kind", "region", "text", "x", "y", "w", "h"]
        for batch in self.manifest.examples.select(names).to_batches():
            split = _codes(batch["split"], self.splits)
            yield batch, self.of_sample[batch["sample"].to_numpy()] * len(self.splits) + split

    def of_samples(self) -> Iterator[tuple[pa.RecordBatch, Numbers]]:
        """Each batch of samples, a row for every split that a sample is in, and the groups (N,) of its rows."""
        first = 0
        for batch in self._samples("splits"):
            rows = pc.list_parent_indices(batch["splits"])
            split = _codes(batch["splits"].flatten(), self.splits)
            yield batch.take(rows), self.of_sample[first + rows.to_numpy()] * len(self.splits) + split
            first += len(batch)


class _Tables:
    """Counts of each of so many groups."""

    def __init__(self, groups: int) -> None:
        self.samples, self.questions = np.zeros((2, groups), np.int64)
        self.expressions = np.zeros((groups, MOST_EXPRESSIONS), np.int64)
        self.words = np.zeros((groups, MOST_WORDS), np.int64)
        self.shares = np.zeros((groups, len(SHARES) - 1), np.int64)
        self.centres = np.zeros((groups, GRID * GRID), np.int64)
        self.sides = np.zeros((groups, len(SIDES) - 1), np.int64)
        self.sizes = np.zeros((groups, len(SIZES)), np.int64)
        # The region that the last row seen belongs to: a batch may end within it.
        self._last, self._group, self._count = np.full((2, 1), -1, np.int64), 0, 0

    def begins(self, regions: Numbers, groups: Numbers) -> Numbers:
        """Which of these rows of expressions begin a region; ``regions`` (2, N) are samples and regions in them."""
        begins = np.flatnonzero((np.diff(regions, axis=1, prepend=self._last) != 0).any(0))
        self._last = regions[:, -1:]
        if not len(begins):
            self._count += len(groups)
            return begins
        self._count += int(begins[0])
        self.finish()
        lengths = np.diff(begins, append=len(groups))
        self._tally_regions(groups[begins[:-1]], lengths[:-1])
        self._group, self._count = int(groups[begins[-1]]), int(lengths[-1])
        return begins

    def finish(self) -> None:
        """Count the region that is open, of which no more rows come."""
        if self._count:
            self._tally_regions(np.array([self._group]), np.array([self._count]))

    def _tally_regions(self, groups: Numbers, lengths: Numbers) -> None:
        _tally(self.expressions, groups, np.minimum(lengths, MOST_EXPRESSIONS) - 1)

    def distribution(
        self, group: int, source: str, split: str, frequent: dict[tuple[str, str], list[tuple[str, int]]] | None
    ) -> Distribution:
        """What was counted of one group."""
        words, answers = (None if frequent is None else frequent.get((split, what), []) for what in (TOKEN, ANSWER))
        return Distribution(
            source,
            split,
            int(self.samples[group]),
            int(self.questions[group]),
            self.expressions[group],
            self.words[group],
            self.shares[group],
            self.centres[group].reshape(GRID, GRID),
            self.sides[group],
            dict(zip(SIZES, self.sizes[group].tolist(), strict=True)),
            words,
            answers,
        )


def _count_examples(table: _Tables, batch: pa.RecordBatch, group: Numbers, sides: Numbers) -> None:
    is_expression = pc.equal(batch["kind"], "expression").to_numpy(zero_copy_only=False)
    table.questions += np.bincount(group[~is_expression], minlength=len(table.questions))
    rows = np.flatnonzero(is_expression)
    if not len(rows):
        return
    spoken = batch.take(pa.array(rows))
    words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(spoken["text"]))).to_numpy()
    _tally(table.words, group[rows], np.clip(words, 1, MOST_WORDS) - 1)
    samples = spoken["sample"].to_numpy().astype(np.int64)
    begins = table.begins(np.stack([samples, spoken["region"].to_numpy()]), group[rows])
    x, y, w, h = (spoken[name].to_numpy()[begins].astype(np.float64) for name in ("x", "y", "w", "h"))
    there = ~np.isnan(x)
    x, y, w, h = (side[there] for side in (x, y, w, h))
    width, height = sides[:, samples[begins][there]]
    of = group[rows][begins][there]
    _tally(table.shares, of, _between(w * h / (width * height), SHARES))
    _tally(table.sizes, of, size_classes(w, h))
    centres = (x + w / 2) / width, (y + h / 2) / height
    across, down = (np.clip(centre * GRID, 0, GRID - 1).astype(int) for centre in centres)
    _tally(table.centres, of, down * GRID + across)


def _frequent(groups: _Groups, source: str) -> dict[tuple[str, str], list[tuple[str, int]]] | None:
    """The most frequent words of the expressions and questions of a source and their answers, by split and which.

    None where there are too many different ones to be counted.
    """
    number = groups.sources.index(source)
    columns = ["sample", *COUNTED_COLUMNS]

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in groups.manifest.examples.select(columns).to_batches():
            yield batch.filter(pa.array(groups.of_sample[batch["sample"].to_numpy()] == number))

    total = summed(counted(batches()))
    if total is None:
        return None
    found: dict[tuple[str, str], Counter[str]] = {}
    for what in (TOKEN, ANSWER):
        for row in total.filter(pc.equal(total["what"], what)).select(["split", "value", "count"]).to_pylist():
            value = row["value"] if what == ANSWER else row["value"].strip(string.punctuation).lower()
            if value:
                found.setdefault((row["split"], what), Counter())[value] += row["count"]
    return {key: counter.most_common(MOST_FREQUENT) for key, counter in found.items()}


def _codes(values: pa.Array, known: list[str]) -> Numbers:
    return np.asarray(pc.index_in(values, pa.array(known, pa.string())).to_numpy(), np.int64)


def _between(values: NDArray[np.float64], borders: NDArray[np.float64]) -> Numbers:
    """The number of the interval of each value (N,); those beyond an end are in the interval there."""
    return np.clip(np.searchsorted(borders, values, "right") - 1, 0, len(borders) - 2)


def _tally(table: Numbers, groups: Numbers, places: Numbers) -> None:
    table += np.bincount(groups * table.shape[1] + places, minlength=table.size).reshape(table.shape)
