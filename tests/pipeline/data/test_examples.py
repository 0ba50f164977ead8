"""Which rows are trained on and scored: referents with a sentence drawn a visit, questions, sentences once each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from laconvnet.pipeline.bench.made import images, made_set
from laconvnet.pipeline.data import examples as module
from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.build.builder import build
from laconvnet.shards.format import tables
from laconvnet.shards.format.manifest import Manifest, publish_tables
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from tests.mapped import as_mapped


@pytest.fixture(scope="module")
def training(sets: dict[str, Path]) -> Examples:
    return Examples.open(sets["refcoco"], "expression", "train")


def referents(examples: Examples) -> dict[tuple[int, int], list[int]]:
    """The rows of each (image, region), from the table alone."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, entry in enumerate(examples.manifest.examples.to_pylist()):
        if entry["split"] == examples.split and entry["kind"] == examples.kind:
            found[entry["sample"], entry["region"]].append(row)
    return found


@pytest.mark.parametrize(
    ("source", "kind", "split"),
    [("refcoco", "expression", "val"), ("clevr", "question", "val"), ("visual_genome", "question", "train")],
)
def test_evaluation_rows_are_each_sentence_once(sets: dict[str, Path], source: str, kind: str, split: str) -> None:
    table = Manifest.open(sets[source]).examples.to_pylist()
    expected = [row for row, entry in enumerate(table) if (entry["kind"], entry["split"]) == (kind, split)]
    examples = Examples.open(sets[source], kind, split)  # type: ignore[arg-type]
    assert examples.rows.dtype == np.int32
    assert examples.rows.tolist() == expected
    assert len(expected) > 10


def test_columns_belong_to_the_rows_requested(sets: dict[str, Path]) -> None:
    for source, kind in (("refcoco", "expression"), ("clevr", "question")):
        examples = Examples.open(sets[source], kind, "train")  # type: ignore[arg-type]
        table, samples = examples.manifest.examples.to_pylist(), examples.manifest.samples.to_pylist()
        rows = np.random.default_rng(0).choice(examples.rows, 20)
        assert examples.texts(rows) == [table[row]["text"] for row in rows]
        assert examples.answers(rows) == [table[row]["answer"] for row in rows]
        assert examples.families(rows) == [table[row]["family"] for row in rows]
        images = examples.samples(rows)
        assert images.tolist() == [table[row]["sample"] for row in rows]
        sides = [[table[row][side] for side in "xywh"] for row in rows]
        np.testing.assert_array_equal(examples.boxes(rows), np.array(sides, np.float32))
        widths, heights = examples.sides(images)
        assert widths.tolist() == [samples[image]["width"] for image in images]
        assert heights.tolist() == [samples[image]["height"] for image in images]


def in_batches(folder: Path, out: Path, rows: int) -> Path:
    """A copy of a set whose mapped tables have so many rows a batch, beside its inputs if it is a merged one."""
    shutil.copytree(folder, out)
    for other in folder.parent.iterdir():
        if not (out.parent / other.name).exists():
            (out.parent / other.name).symlink_to(other)
    stored = Manifest.open(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BATCH_ROWS", rows)
        meta = {name: value for name, value in stored.meta.items() if name != "tables"}
        publish_tables(out, [stored.samples.to_table()], [stored.examples.to_table()], meta)
    return out


@pytest.mark.parametrize(
    ("source", "kind"), [("refcoco", "expression"), ("clevr", "question"), ("merged", "expression")]
)
@pytest.mark.parametrize(("rows", "few", "block"), [(1, 32, 1 << 18), (7, 0, 5), (7, 1, 1)])
def test_batches_and_blocks_change_nothing(
    sets: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    kind: Literal["expression", "question"],
    rows: int,
    few: int,
    block: int,
) -> None:
    whole = Examples.open(sets[source], kind, "train")
    expected = Items.of(whole, 3, 20)
    folder = in_batches(sets[source], tmp_path / source, rows)
    monkeypatch.setattr(tables, "BATCH_ROWS", rows)
    monkeypatch.setattr(tables, "_FEW", few)
    monkeypatch.setattr(module, "_BLOCK", block)
    examples = Examples.open(folder, kind, "train")
    assert examples.manifest.examples["text"].num_chunks == -(-len(whole.manifest.examples) // rows) > 1
    assert examples.rows.tolist() == whole.rows.tolist()
    items = Items.of(examples, 3, 20)
    assert items.first.tolist() == expected.first.tolist()
    assert items.count.tolist() == expected.count.tolist()
    assert items.plan.sizes == expected.plan.sizes
    assert items.plan.blocks.tolist() == expected.plan.blocks.tolist()
    chosen = items.step(2, 24, 0, 1)
    assert chosen.tolist() == expected.step(2, 24, 0, 1).tolist()
    for read in (Examples.texts, Examples.answers, Examples.human_answers, Examples.ids, Examples.families):
        assert read(examples, chosen) == read(whole, chosen)
    np.testing.assert_array_equal(examples.boxes(chosen), whole.boxes(chosen))
    np.testing.assert_array_equal(examples.sides(examples.samples(chosen)), whole.sides(whole.samples(chosen)))
    assert examples.several == whole.several


_OPENED = """
import sys
from pathlib import Path
import pyarrow.compute, pyarrow.parquet
from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.data.reader import Reader

def private():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

before = private()
examples = Examples.open(Path(sys.argv[1]), "expression", "train")
items = Items.of(examples, 0)
reader = Reader(examples.manifest)
for step in range(20):
    rows = items.step(step, 64, 0, 1)
    examples.texts(rows), examples.boxes(rows), reader.read(examples.samples(rows))
print(len(examples.rows), private() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what a process holds is read from /proc")
def test_a_process_does_not_grow_by_the_tables_of_its_set(tmp_path: Path) -> None:
    samples = 500_000
    folder = made_set(tmp_path, images(1, 16, 16), samples, 16, 16)
    size = sum(path.stat().st_size for path in folder.glob("*.arrow"))
    assert size > 200 * samples
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", _OPENED, str(folder)],
        # What was freed is given back: Arrow's own pool and malloc's arenas keep it, now more of it and now less.
        env=os.environ
        | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
        | {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    opened, private = map(int, done.stdout.split())
    assert opened == samples
    assert private < size / 6
    # What the order takes is known to the byte: a row in 32 bits, and of how many sentences an item has a choice.
    assert Items.of(Examples.open(folder, "expression", "train"), 0).nbytes == (4 + 1) * samples


def test_a_split_that_is_not_there_is_reported_with_those_that_are(sets: dict[str, Path]) -> None:
    with pytest.raises(ConfigError) as caught:
        Examples.open(sets["refcoco"], "expression", "test")
    message = str(caught.value)
    assert message.startswith(f"{sets['refcoco']}: split 'test': holds no expression; ")
    assert message.endswith(", ".join(f"expression of {split}" for split in ("testA", "testB", "train", "val")))
    with pytest.raises(ConfigError, match=r"split 'train': holds no question; .*expression of testA"):
        Examples.open(sets["refcoco"], "question", "train")


def test_items_are_the_referents(training: Examples) -> None:
    items = Items.of(training, 0)
    expected = list(referents(training).values())
    found = [list(range(first, first + count)) for first, count in zip(items.first, items.count, strict=True)]
    assert found == expected
    assert max(items.count) > 1
    assert items.plan.sizes == (len(expected),)
    assert items.plan.weights == (1.0,)


def test_each_question_is_an_item(sets: dict[str, Path]) -> None:
    examples = Examples.open(sets["clevr"], "question", "train")
    items = Items.of(examples, 0)
    assert items.first.tolist() == examples.rows.tolist()
    assert set(items.count.tolist()) == {1}
    length = items.plan.epoch_length
    assert sorted(items.step(0, length, 0, 1).tolist()) == examples.rows.tolist()


def test_neighbours_of_another_kind_or_split_stay_apart(training: Examples) -> None:
    """Rows 4 and 6 of one region, with a row of another split between them, are no run of sentences."""
    picked = np.array([4, 6], np.int64)
    table = training.manifest.examples.to_table()
    for name in ("sample", "region"):
        column = table.schema.get_field_index(name)
        values = table[name].to_numpy().copy()
        values[4:7] = values[4]
        table = table.set_column(column, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    manifest = replace(training.manifest, examples=as_mapped(table))
    items = Items.of(Examples(manifest, "expression", "train", picked), 0)
    assert items.first.tolist() == [4, 6]
    assert items.count.tolist() == [1, 1]


def test_an_epoch_is_every_referent_once(training: Examples) -> None:
    items, groups = Items.of(training, 0), referents(training)
    of_row = {row: referent for referent, rows in groups.items() for row in rows}
    length = items.plan.epoch_length
    for epoch in range(3):
        seen = [of_row[row] for row in items.step(epoch, length, 0, 1).tolist()]
        assert sorted(seen) == sorted(groups)


def test_the_sentence_is_drawn_anew_at_every_epoch_pass_and_all_come_up(training: Examples) -> None:
    items, groups = Items.of(training, 0), referents(training)
    length, epochs = items.plan.epoch_length, 30
    shown = Counter(row for epoch in range(epochs) for row in items.step(epoch, length, 0, 1).tolist())
    several = [rows for rows in groups.values() if len(rows) > 1]
    assert len(several) > 20
    for rows in groups.values():
        assert sum(shown[row] for row in rows) == epochs
        assert all(shown[row] for row in rows), "a sentence that never comes up in thirty visits"
    firsts = sum(shown[rows[0]] for rows in several) / epochs
    expected = sum(1 / len(rows) for rows in several)
    assert firsts == pytest.approx(expected, rel=0.15)
    # Referents draw independently of each other: no epoch takes everybody's first sentence.
    for epoch in range(3):
        taken = set(items.step(epoch, length, 0, 1).tolist())
        assert 0 < sum(rows[0] in taken for rows in several) < len(several)


def test_the_drawn_sentence_is_the_same_on_every_world_and_after_resuming(training: Examples) -> None:
    items = Items.of(training, 0)
    whole = [items.step(step, 24, 0, 1).tolist() for step in range(12)]
    again = Items.of(training, 0)
    for world in (2, 3, 4):
        for step in (11, 5, 0):
            parts = [again.step(step, 24, rank, world).tolist() for rank in range(world)]
            assert [row for part in parts for row in part] == whole[step]
    other = Items.of(training, 1)
    assert [other.step(step, 24, 0, 1).tolist() for step in range(12)] != whole


def test_a_merged_set_mixes_its_sets_by_weight(sets: dict[str, Path]) -> None:
    examples = Examples.open(sets["merged"], "expression", "train")
    items = Items.of(examples, 0)
    number = examples.manifest.samples["set"].to_numpy()[examples.samples(items.first)]
    refcoco, genome = ((number == one).sum() for one in (0, 1))
    assert items.plan.sizes == (refcoco, genome)
    assert items.plan.weights == (1.0, 0.5)
    assert items.plan.shares == (refcoco, round(genome / 2))
    for epoch in range(2):
        rows = items.step(epoch, items.plan.epoch_length, 0, 1)
        of_set = examples.manifest.samples["set"].to_numpy()[examples.samples(rows)]
        assert ((of_set == 0).sum(), (of_set == 1).sum()) == items.plan.shares


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """An image with an expression that says nothing, and with a question whose answer is hidden."""
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    expressions = (Expression("0", "red thing"), Expression("1", " ?! "))
    regions = (Region("r", "train", ((1, 1, 5, 5),), expressions),)
    questions = (Question("q0", "train", "what is it?", "a box"), Question("q1", "train", "where is it?"))
    hidden = (Question("q2", "test", "who is it?"),)
    record = Record("odd", "a", "a.png", 20, 20, "CC0", regions, (*questions, *hidden))
    build([RawSample(record, tmp_path / "a.png")], tmp_path / "odd", source="odd", licence="CC0", options={})
    return tmp_path / "odd"


def test_a_text_without_a_word_is_skipped_and_counted(odd: Path) -> None:
    examples = Examples.open(odd, "expression", "train")
    assert examples.texts(examples.rows) == ["red thing"]
    assert examples.empty_texts == 1


def test_training_takes_only_questions_whose_answer_is_known(odd: Path) -> None:
    examples = Examples.open(odd, "question", "train")
    assert len(examples.rows) == 2
    assert examples.answered().answers(examples.answered().rows) == ["a box"]
    with pytest.raises(ConfigError, match="split 'test': hides its answers"):
        Examples.open(odd, "question", "test").answered()


def test_another_build_has_another_fingerprint(odd: Path, sets: dict[str, Path]) -> None:
    names = {Examples.open(sets[name], "expression", "train").fingerprint for name in ("refcoco", "refcoco+")}
    names.add(Examples.open(odd, "expression", "train").fingerprint)
    assert len(names) == 3
    assert Examples.open(odd, "question", "train").fingerprint in names


def test_the_fingerprint_is_that_of_what_is_read(odd: Path, tmp_path: Path) -> None:
    """The tables' checksums stand in the manifest: one changed text is another set."""
    shutil.copytree(odd, tmp_path / "same")
    shutil.copytree(odd, tmp_path / "other")
    stored = Manifest.open(tmp_path / "other")
    table = stored.examples.to_table()
    texts = pa.array(["another", *table["text"].to_pylist()[1:]])
    at = table.schema.get_field_index("text")
    changed = table.set_column(at, table.schema.field("text"), texts)
    publish_tables(tmp_path / "other", [stored.samples.to_table()], [changed], stored.meta)
    own = Examples.open(odd, "expression", "train").fingerprint
    assert Examples.open(tmp_path / "same", "expression", "train").fingerprint == own
    assert Examples.open(tmp_path / "other", "expression", "train").fingerprint != own
