"""A vocabulary made of what the set has counted is that of all texts read, and reads none of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data import counts as module
from laconvnet.pipeline.data.counts import answer_counts, token_counts
from laconvnet.pipeline.data.examples import Examples, Items, Kind
from laconvnet.pipeline.data.text import EMPTY_TEXT, Vocabulary
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.training.start import _vocabulary, start
from laconvnet.shards.build.builder import build
from laconvnet.shards.format import tables
from laconvnet.shards.format.checksums import TableChecksums
from laconvnet.shards.format.manifest import KINDS, Manifest
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from laconvnet.shards.sources import get
from tests.pipeline.training.test_several_answers import several as several  # a fixture
from tests.samples import SAMPLES
from tests.shards.older import without_counts

TINY = Path(__file__).resolve().parents[1] / "training" / "tiny.yaml"
EARLIER = Vocabulary(("zebra", "left"), ("yes", "no", "unicorn"))
# Blanks of every kind, words with and without a mirror, letters that change with case, and no word at all.
SPOKEN = ("left", "Right-most", "TOPLEFT", "İΣ", "ß", "cat.", "o'clock", "\t", "\u00a0x", "", "?", "-", "…", "☺", "猫")
SAID = ("yes", "No", "no", "Two", "2", "", "the cat", "left")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts drawn of all of SPOKEN, some without a word; answers of one or of several people, all known in train."""
    folder, draw = tmp_path_factory.mktemp("spoken"), np.random.default_rng(0)

    def text() -> str:
        return " ".join(draw.choice(SPOKEN, draw.integers(1, 5)))

    samples = []
    for number in range(24):
        path = folder / f"{number}.png"
        Image.new("RGB", (20, 20), (number, 0, 0)).save(path)
        split = ("train", "val", "test")[number % 3]
        regions = (Region("r", split, ((1, 1, 5, 5),), tuple(Expression(f"e{at}", text()) for at in range(6))),)
        people = [tuple(draw.choice(SAID, 3)) for _ in range(6)]
        hidden = split == "test"
        questions = tuple(
            Question(f"q{at}", split, text(), None if hidden and at % 2 else given[0], () if hidden else given)
            for at, given in enumerate(people)
        )
        # Of one that nobody can ask, the answer is none: it stands nowhere else.
        questions += (Question("q", split, " ?! ", "an answer to nothing", ()),)
        samples.append(RawSample(Record("odd", str(number), path.name, 0, 0, "CC0", regions, questions), path))
    build(samples, folder / "set", source="odd", licence="CC0", options={}, shard_bytes=400, progress=False)
    return folder / "set"


@pytest.fixture(scope="module")
def folders(
    sets: dict[str, Path], groups: Path, several: Path, spoken: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """All sets of tests, and the texts of the excerpts of real ones that are there."""
    found = {**sets, "groups": groups, "several": several, "spoken": spoken}
    place = tmp_path_factory.mktemp("real")
    blank = place / "blank.png"
    Image.new("RGB", (8, 8)).save(blank)
    roots = {"refcoco": "refer", "refcoco+": "refer", "refcocog": "refer", "visual_genome": "visual_genome"}
    for name, root in roots.items():
        if (SAMPLES / root).exists():  # what people wrote there, on images that say nothing
            samples = get(name).samples(SAMPLES / root, images=place, splits=None, partition=None)
            texts = [RawSample(_without_places(sample.record), blank) for sample in samples]
            build(texts, place / name, source=name, licence="any", options={}, progress=False)
            found[f"real {name}"] = place / name
    return found


def _without_places(record: Record) -> Record:
    regions = tuple(replace(region, boxes=(), mask=None) for region in record.regions)
    return replace(record, width=0, height=0, regions=regions)


def selections(folder: Path) -> Iterator[Examples]:
    """The examples of each kind and split there is, and of questions those with an answer, too."""
    there = Manifest.open(folder).examples.to_pylist()
    for kind, split in sorted({(row["kind"], row["split"]) for row in there}):
        assert kind in KINDS
        examples = Examples.open(folder, cast("Kind", kind), split)
        yield examples
        if kind == "question" and any(answer is not None for answer in examples.answers(examples.rows)):
            yield examples.answered()


def vocabularies(examples: Examples) -> list[str]:
    made = []
    for earlier in (Vocabulary(()), EARLIER):
        for mirrored in (False, True):
            for minimum in (1, 2, 9):
                try:
                    made.append(_vocabulary(examples, earlier, mirrored, minimum).to_json())
                except ConfigError as error:
                    made.append(str(error))
    return made


def test_both_ways_give_the_same_vocabulary_on_every_set(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {name: list(selections(folder)) for name, folder in folders.items()}
    made = {name: [vocabularies(examples) for examples in found] for name, found in stored.items()}
    monkeypatch.setattr(Manifest, "counts", lambda *_: None)
    for name, folder in folders.items():
        for ours, found, examples in zip(stored[name], made[name], selections(folder), strict=True):
            assert ours.rows.tolist() == examples.rows.tolist()
            assert ours.rows.dtype == examples.rows.dtype
            assert (ours.empty_rows.tolist(), ours.empty_texts) == (examples.empty_rows.tolist(), examples.empty_texts)
            assert found == vocabularies(examples), (name, ours.kind, ours.split)
    assert len(made) >= 9
    assert sum(examples.empty_texts for examples in stored["spoken"]) > 10


def test_counts_are_taken_where_they_are_of_these_examples_and_only_there(
    spoken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    look = module._stored

    def watched(examples: Examples, what: str) -> Any:
        found = look(examples, what)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(module, "_stored", watched)
    whole = Examples.open(spoken, "question", "train")
    hidden = Examples.open(spoken, "question", "test")
    for examples, expected in (
        (whole, True),
        (whole.answered(), True),
        (Examples.open(spoken, "expression", "val"), True),
        (hidden, True),
        (hidden.answered(), False),
        (replace(whole, rows=whole.rows[:-1]), False),
        (replace(whole, rows=whole.rows[:0]), False),
        (Examples(whole.manifest, "question", "train", whole.rows), False),
    ):
        taken.clear()
        token_counts(examples)
        answer_counts(examples)
        assert taken == [expected] * 2, (examples.split, len(examples.rows))


def test_what_nobody_can_ask_teaches_no_answer(spoken: Path) -> None:
    examples = Examples.open(spoken, "question", "train")
    assert "an answer to nothing" in examples.answers(examples.empty_rows)
    assert "an answer to nothing" not in answer_counts(examples)
    assert min(answer_counts(examples).values()) > 0


def test_every_text_without_a_word_is_among_those_that_a_set_notes() -> None:
    """A set notes texts without letter or digit; those without a word are among them, whatever they are made of."""
    import re

    marks = [chr(code) for code in range(0x250) if re.match(EMPTY_TEXT, chr(code), re.ASCII)]
    assert {"?", " ", "-"} <= set(marks)
    assert not [mark for mark in marks if mark.isalnum()]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The columns of which a value was looked at, of tables that are too long to be compared when they are opened."""
    seen: list[str] = []
    compare = TableChecksums.compare

    def watched(self: TableChecksums, name: str, batch: int) -> None:
        seen.append(f"{self._path.name} {name}")
        compare(self, name, batch)

    monkeypatch.setattr(TableChecksums, "compare", watched)
    monkeypatch.setattr(tables, "WHOLE_BYTES", 0)
    return seen


@pytest.mark.parametrize(
    ("source", "kind"), [("refcoco", "expression"), ("spoken", "question"), ("merged", "expression")]
)
@pytest.mark.parametrize("flip", ["0", "0.5"])
def test_a_start_reads_no_text_of_a_set_with_counts(
    folders: dict[str, Path], compared: list[str], tmp_path: Path, source: str, kind: Kind, flip: str
) -> None:
    task = "vqa" if kind == "question" else "rec"
    options = ["--data.folder", str(folders[source]), "--data.flip", flip, "--model.task", task]
    config = configuration.load(TINY, options)
    examples = Examples.open(folders[source], kind, "train")
    Items.of(examples, 0)
    words = start(config, None, examples).vocabulary.words
    assert {"examples.arrow split", "counts.arrow value"} <= set(compared)
    assert "examples.arrow text" not in compared
    # The control: the same of a set that was built before.
    if source != "merged":  # which refers to its inputs by place
        compared.clear()
        older = without_counts(Path(shutil.copytree(folders[source], tmp_path / "older")))
        assert start(config, None, Examples.open(older, kind, "train")).vocabulary.words == words
        assert "examples.arrow text" in compared
