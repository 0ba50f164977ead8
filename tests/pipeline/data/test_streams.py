"""The whole run's stream of samples: the same on any world and thread count, however often it is broken off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.data.loader import Batch, DataConfig, Loader, Request, requests_of
from laconvnet.pipeline.data.text import Vocabulary

BATCH = 24
WINDOWS = st.sampled_from([0, 1, 20, 64, 10_000])
WORLDS = st.sampled_from([1, 2, 3, 4])


@dataclass(frozen=True)
class Run:
    """So much of a run as decides what it reads."""

    folder: Path
    window: int
    seed: int

    def items(self) -> Items:
        """Anew, as in another process."""
        return Items.of(Examples.open(self.folder, "expression", "train"), self.seed, self.window)


def read(items: Items, first: int, last: int, world: int) -> list[int]:
    """The example rows of these steps, as all ranks read them, in the order of the stream."""
    return [row for step in range(first, last) for rank in range(world) for row in items.step(step, BATCH, rank, world)]


def pieces(total: int, cuts: list[int]) -> list[tuple[int, int]]:
    """Where the attempts of a run begin and end that is broken off at these steps."""
    return list(pairwise(sorted({0, total, *cuts})))


@settings(max_examples=15, deadline=None)
@given(data=st.data(), window=WINDOWS, seed=st.integers(0, 9), name=st.sampled_from(["refcoco", "merged"]))
def test_a_run_broken_off_again_and_again_reads_what_the_undisturbed_one_reads(
    sets: dict[str, Path], data: st.DataObject, window: int, seed: int, name: str
) -> None:
    run = Run(sets[name], window, seed)
    items = run.items()
    total = 3 * items.plan.epoch_length // BATCH + 2
    assert total > 8
    borders = [epoch * items.plan.epoch_length // BATCH for epoch in (1, 2, 3)]
    cuts = data.draw(st.lists(st.integers(1, total - 1), min_size=3, max_size=5, unique=True)) + borders
    undisturbed = read(items, 0, total, 1)
    seen: list[int] = []
    for first, last in pieces(total, cuts):
        seen += read(run.items(), first, last, data.draw(WORLDS))
    assert seen == undisturbed


@pytest.mark.parametrize("window", [0, 20])
def test_an_epoch_is_a_permutation_and_weights_are_multiplicities(sets: dict[str, Path], window: int) -> None:
    single = Run(sets["refcoco"], window, 1).items()
    length = single.plan.epoch_length
    assert length == len(single.first)
    orders = []
    for epoch in range(3):
        chosen, epoch_passes = single.plan.step(epoch, length, 0, 1)
        orders.append(tuple(chosen.tolist()))
        assert sorted(orders[-1]) == list(range(length))
        assert set(epoch_passes.tolist()) == {epoch}
    assert len(set(orders)) == 3
    merged = Run(sets["merged"], window, 1).items()
    (whole, half), length = merged.plan.sizes, merged.plan.epoch_length
    assert merged.plan.weights == (1.0, 0.5)
    assert length == whole + round(half / 2)
    shown = [Counter(merged.plan.step(epoch, length, 0, 1)[0].tolist()) for epoch in range(2)]
    for once in shown:
        assert {item: count for item, count in once.items() if item < whole} == dict.fromkeys(range(whole), 1)
        assert {count for item, count in once.items() if item >= whole} == {1}
    both = shown[0] + shown[1]
    assert set(both) >= set(range(whole + half - 1))
    assert max(count for item, count in both.items() if item >= whole) <= 2


# --- through the loader -----------------------------------------------------------------------------------------------


@contextmanager
def loading(run: Run, config: DataConfig, first: int, last: int, rank: int, world: int) -> Iterator[Iterator[Batch]]:
    """What one rank of one attempt is given for these steps."""
    items = run.items()
    vocabulary = Vocabulary.build(items.examples.texts(items.examples.rows))

    def requests() -> Iterator[Request]:
        for step in range(first, last):
            yield from requests_of(items, config, step, rank, world, 1)

    with (
        closing(Loader(items.examples, vocabulary, config, BATCH // world, torch.device("cpu"))) as loader,
        closing(loader.stream(requests())) as stream,
    ):
        yield stream


@pytest.mark.parametrize("window", [0, 20])
def test_the_loader_gives_the_same_batches_on_any_world_however_often_it_is_started(
    sets: dict[str, Path], window: int
) -> None:
    """Ids, and the very images, boxes and words: with all that is drawn at random."""
    run = Run(sets["refcoco"], window, 7)
    config = DataConfig("unused", size=32, words=6, batch=BATCH, flip=0.5, jitter=0.3, colour=0.3, window=window)
    length = run.items().plan.epoch_length
    total = 2 * length // BATCH + 2
    with loading(run, replace(config, threads=1), 0, total, 0, 1) as stream:
        undisturbed = list(stream)
    assert [row for batch in undisturbed for row in batch.rows] == read(run.items(), 0, total, 1)
    cuts = [1, length // BATCH, length // BATCH + 1, 2 * length // BATCH]
    attempts = zip(pieces(total, cuts), [(2, 1), (3, 2), (4, 3), (1, 3), (2, 2)], strict=True)
    for (first, last), (world, threads) in attempts:
        shares = []
        for rank in range(world):
            with loading(run, replace(config, threads=threads), first, total, rank, world) as stream:
                shares.append(list(islice(stream, last - first)))  # broken off with more made ahead
        for step, (expected, *parts) in enumerate(zip(undisturbed[first:last], *shares, strict=True), first):
            assert np.concatenate([part.rows for part in parts]).tolist() == expected.rows.tolist(), step
            for name in ("images", "boxes", "tokens"):
                found = torch.cat([getattr(part, name) for part in parts])
                assert torch.equal(found, getattr(expected, name)), (step, name)


@pytest.mark.parametrize(("source", "kind"), [("refcoco", "expression"), ("clevr", "question")])
@pytest.mark.parametrize("batch", [7, 24, 1000])
def test_evaluation_is_given_every_example_once(sets: dict[str, Path], source: str, kind: str, batch: int) -> None:
    """Cut as `pipeline.inference.evaluate` cuts them: the last batch is what is left over."""
    examples = Examples.open(sets[source], kind, "val")  # type: ignore[arg-type]
    config = DataConfig("unused", size=32, words=6, batch=batch)
    vocabulary = Vocabulary.build(examples.texts(examples.rows))
    with closing(Loader(examples, vocabulary, config, batch, torch.device("cpu"))) as loader:
        cuts = [examples.rows[first : first + batch] for first in range(0, len(examples.rows), batch)]
        batches = list(loader.stream(Request(rows) for rows in cuts))
    table = examples.manifest.examples.to_pylist()
    expected = [row for row, entry in enumerate(table) if (entry["kind"], entry["split"]) == (kind, "val")]
    assert [row for one in batches for row in one.rows] == expected
    assert all(len(one.images) == len(one.tokens) == len(one.rows) for one in batches)
