"""What an epoch is made of: the numbers that `shards info` tells are those of the order that a training takes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laconvnet.launch.cli import main
from laconvnet.pipeline.data.epoch import epoch
from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.data.plan import steps
from laconvnet.shards.build.builder import build
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from laconvnet.shards.sets.merge import pretrain_set


def built(folder: Path, source: str, regions: tuple[Region, ...], questions: tuple[Question, ...], images: int) -> Path:
    """A set of images with these regions and questions in each."""
    samples = []
    folder.mkdir()
    for number in range(images):
        path = folder / f"{source}-{number}.png"
        Image.new("RGB", (8, 8), (number, sum(source.encode()) % 256, 0)).save(path)
        record = Record(source, str(number), path.name, 8, 8, "CC0", regions, questions)
        samples.append(RawSample(record, path))
    build(samples, folder / "set", source=source, licence="CC0", options={}, progress=False)
    return folder / "set"


def region(number: int, *texts: str, split: str = "train") -> Region:
    expressions = tuple(Expression(f"{number}-{at}", text) for at, text in enumerate(texts))
    return Region(str(number), split, ((1, 1, 2, 2),), expressions)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 images of two referents with 4 expressions, one wordless; 4 images of a phrase and three names, 2 questions."""
    folder = tmp_path_factory.mktemp("sets")
    phrases = (region(0, "the left one", "left"), region(1, "a red one", "..."))
    names = (
        region(7, "a clock on a wall"),
        Region(
            "object-3", "train", ((1, 1, 3, 3),), (Expression("object-3-0", "clock"), Expression("object-3-1", "it"))
        ),
        Region("attribute-4", "train", ((1, 1, 4, 4),), (Expression("attribute-4-0", "green clock"),)),
        Region("object-5", "train", ((1, 1, 5, 5),), (Expression("object-5-0", "wall"),)),
    )
    asked = (Question("q", "train", "what?", "this"), Question("r", "train", "who?", None))
    refcoco = built(folder / "a", "refcoco", phrases, (), 5)
    genome = built(folder / "b", "visual_genome", names, asked, 4)
    pretrain_set([(refcoco, 1.5), (genome, 0.25)], [], folder / "mixed")
    return folder / "mixed"


def test_the_parts_have_their_items_and_shares(mixed: Path) -> None:
    first, second, asked = map(asdict, epoch(mixed, batch=4))
    # 1.5 x 10 and 0.25 x 16 items: 19 an epoch, in 5 steps of 4
    assert first == {
        **{"kind": "expression", "part": "refcoco", "examples": 15, "items": 10, "names": 0, "weight": 1.5},
        **{"of_epoch": 15, "share": 15 / 19, "steps": pytest.approx(5 * 15 / 19)},
    }
    assert second == {
        **{"kind": "expression", "part": "visual_genome", "examples": 20, "items": 16, "names": 12, "weight": 0.25},
        **{"of_epoch": 4, "share": 4 / 19, "steps": pytest.approx(5 * 4 / 19)},
    }
    assert (asked["kind"], asked["part"], asked["examples"]) == ("question", "visual_genome", 4)
    assert (asked["of_epoch"], asked["share"]) == (1, 1.0)
    assert epoch(mixed)[0].steps is None


def test_the_numbers_are_those_of_the_plan_that_a_training_takes(mixed: Path) -> None:
    for kind in ("expression", "question"):
        examples = Examples.open(mixed, kind, "train")
        items = Items.of(examples.answered() if kind == "question" else examples, seed=3)
        parts = [part for part in epoch(mixed, batch=4) if part.kind == kind]
        length = sum(part.of_epoch for part in parts)
        taken = [items.step(step, 4, 0, 1) for step in range(steps(items.plan, 4, 1))]
        assert sum(part.steps or 0 for part in parts) == pytest.approx(len(taken))
        rows = np.concatenate(taken)[:length]
        shown = Counter(examples.manifest.sample_columns.numbers("set", examples.samples(rows)).tolist())
        assert [part.of_epoch for part in parts] == [number for _, number in sorted(shown.items())]


def test_info_tells_what_the_weights_do(mixed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "info", str(mixed)]) == 0
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["expressions", "refcoco", "15", "10", "0", "1.5", "15", "78.9", "%"] in lines
    assert ["expressions", "visual_genome", "20", "16", "12", "0.25", "4", "21.1", "%"] in lines
    assert main(["shards", "info", str(mixed), "--batch", "4"]) == 0
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["expressions", "refcoco", "15", "10", "0", "1.5", "15", "78.9", "%", "3.9"] in lines
    assert main(["shards", "info", str(mixed), "--json"]) == 0
    assert [part["of_epoch"] for part in json.loads(capfd.readouterr().out)["epoch"]] == [15, 4, 1]


def test_a_set_of_one_source_has_an_epoch_where_a_batch_is_given(
    mixed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = str(mixed.parent / "a" / "set")
    assert main(["shards", "info", one, "--json"]) == 0
    assert "epoch" not in json.loads(capfd.readouterr().out)
    assert main(["shards", "info", one, "--json", "--batch", "3"]) == 0
    (part,) = json.loads(capfd.readouterr().out)["epoch"]
    assert (part["items"], part["steps"]) == (10, 4)


def test_questions_without_answers_are_in_no_epoch(tmp_path: Path) -> None:
    hidden = built(tmp_path / "a", "toy", (), (Question("q", "train", "what?"),), 2)
    assert epoch(hidden) == []
    assert epoch(hidden, "val") == []
