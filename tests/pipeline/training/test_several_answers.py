"""A small set whose questions several people answered: its vocabulary, its batches, a run on it and its score."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.loader import DataConfig, Loader, Request
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference import submission
from laconvnet.pipeline.inference.evaluate import evaluate
from laconvnet.pipeline.training.start import _vocabulary, start
from tests.pipeline.training.ranks import run

SIZE = 64


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built VQAv2: two questions on each of 24 images of train, 8 of val and 4 of test, the same ones in test-dev.

    The first asks whether the image is white (yes) or black (no), the second says left, but "middle" twice in train:
    too rarely to be learned. One of the ten people says the opposite, or "the Right".
    """
    from laconvnet.shards.build.builder import build
    from laconvnet.shards.sources import get

    place = tmp_path_factory.mktemp("several")
    for part, numbers in (("train2014", range(24)), ("val2014", range(100, 108)), ("test2015", range(200, 204))):
        (place / part).mkdir()
        questions, annotations = [], []
        for number in numbers:
            light = number % 2
            Image.fromarray(np.full((SIZE, SIZE, 3), 255 * light, np.uint8)).save(
                place / part / f"COCO_{part}_{number:012d}.jpg"
            )
            side = "middle" if number in (20, 21) else "left"
            message = {"yes/no": ["Yes", "no"][:: 2 * light - 1], "other": [side, "the Right"]}
            for place_in, (family, (chosen, odd)) in enumerate(message.items()):
                id = 10 * number + place_in
                text = ("Is it light?", "At which left side?")[place_in]
                questions.append({"image_id": number, "question_id": id, "question": text})
                answers = [{"answer": answer, "answer_id": n} for n, answer in enumerate([chosen] * 9 + [odd], 1)]
                facts = {"answer_type": family, "multiple_choice_answer": chosen}
                annotations.append({"image_id": number, "question_id": id, "answers": answers, **facts})
        write = {"questions": f"v2_OpenEnded_mscoco_{part}_questions", "annotations": f"v2_mscoco_{part}_annotations"}
        for key, entries in (("questions", questions), ("annotations", annotations)):
            if part != "test2015" or key == "questions":
                (place / f"{write[key]}.json").write_text(json.dumps({key: entries}))
    dev = (place / "v2_OpenEnded_mscoco_test2015_questions.json").read_text()
    (place / "v2_OpenEnded_mscoco_test-dev2015_questions.json").write_text(dev)
    samples = get("vqav2").samples(place, images=None, splits=None, partition=None)
    build(samples, place / "built", source="vqav2", licence="any", options={}, progress=False)
    return place / "built"


def _open(folder: Path, split: str = "train") -> Examples:
    return Examples.open(folder, "question", split)


def test_the_frequent_answers_are_the_vocabulary(several: Path, sets: dict[str, Path]) -> None:
    vocabulary = _vocabulary(_open(several), Vocabulary(()))
    assert vocabulary.soft
    assert vocabulary.answers == ("left", "no", "yes")
    assert _vocabulary(_open(several), Vocabulary(()), minimum=2).answers == ("left", "no", "yes", "middle")
    with pytest.raises(ConfigError, match=r"data\.answer_minimum: 23: .*built, split 'train', .*no answer"):
        _vocabulary(_open(several), Vocabulary(()), minimum=23)
    # One answer a question: all are learned, however rare.
    clevr = _open(sets["clevr"])
    few = replace(clevr, rows=clevr.rows[:8])
    assert not few.several
    hard = _vocabulary(few, Vocabulary(()), minimum=1000)
    assert not hard.soft
    assert set(hard.answers) == set(few.answers(few.rows))


def test_answers_of_an_earlier_stage_keep_their_numbers(several: Path) -> None:
    earlier = Vocabulary(("cat",), ("blue", "yes"))
    vocabulary = _vocabulary(_open(several), earlier)
    assert vocabulary.answers == ("blue", "yes", "left", "no")
    assert vocabulary.soft


def test_batches_have_the_soft_scores(several: Path) -> None:
    examples, vocabulary = _open(several), Vocabulary(("it",), ("left", "no", "yes", "right"), soft=True)
    config = DataConfig(folder=str(several), size=SIZE, batch=4)
    with closing(Loader(examples, vocabulary, config, 4, torch.device("cpu"))) as loader:
        rows = np.concatenate([examples.rows[:2], examples.rows[40:42]])
        batch = loader.batch(Request(rows))
        expected = torch.tensor([[0, 1, 0.3, 0], [1, 0, 0, 0.3], [0, 1, 0.3, 0], [0, 0, 0, 0.3]])
        torch.testing.assert_close(batch.answers, expected)
        # The mirror exchanges the sides in every answer.
        flipped = loader.batch(Request(rows, None, np.ones(4, bool)))
        torch.testing.assert_close(flipped.answers, expected[:, [3, 1, 2, 0]])
        hidden = _open(several, "test")
    with closing(Loader(hidden, vocabulary, config, 4, torch.device("cpu"))) as loader:
        assert not loader.batch(Request(hidden.rows[:2])).answers.any()
    # Where the vocabulary lacks what an answer becomes, the question is never mirrored.
    known = replace(vocabulary, answers=("left", "no", "yes"))
    with closing(Loader(examples, known, config, 4, torch.device("cpu"))) as loader:
        turned = loader.batch(Request(rows, None, np.ones(4, bool)))
        torch.testing.assert_close(turned.answers, torch.tensor([[0, 1, 0.3], [1, 0, 0], [0, 1, 0.3], [0.3, 0, 0]]))


def test_what_the_server_would_refuse_is_told_before_it_is_answered(several: Path, sets: dict[str, Path]) -> None:
    submission.check(_open(several, "test-dev"), 8)
    with pytest.raises(ConfigError, match="8 of 9 questions are there, and the server takes all or nothing"):
        submission.check(_open(several, "test-dev"), 9)
    with pytest.raises(ConfigError, match=r"question id '.*'; expected a split of VQAv2"):
        submission.check(_open(sets["clevr"], "train"), None)
    with pytest.raises(ConfigError, match="train holds no question; expected a split of VQAv2"):
        submission.check(Examples.open(sets["refcoco"], "expression", "train"), None)
    twice = _open(several, "val")
    with pytest.raises(ConfigError, match="2 questions are there twice"):
        submission.check(replace(twice, rows=np.concatenate([twice.rows, twice.rows[:2]])), None)


def test_a_run_learns_what_most_say_and_is_scored_by_all(several: Path, tmp_path: Path) -> None:
    flags = [f"--data.folder={several}", f"--data.size={SIZE}", "--data.words=6", "--data.batch=8", "--data.threads=1"]
    flags += ["--model.preset=tiny", "--model.task=vqa", "--optimizer.lr=3e-3", "--optimizer.ema=0"]
    keys = [*flags, "--schedule.epochs=2", "--schedule.warmup=0.2"]
    (output,) = run(1, ["-m", "laconvnet.launch.cli", "train", "--run", str(tmp_path / "run"), *keys])
    assert "3 answers, 2 of 48 questions have none of them" in output
    report = evaluate(tmp_path / "run", several, "val", tmp_path / "val.json", progress=False)
    assert report is not None
    families = ["accuracy/other", "accuracy/yes/no"]
    assert [name for name in report if name.startswith("accuracy/")] == families
    assert report["accuracy"] == pytest.approx(sum(report[name] for name in families) / 2)
    answers = [json.loads(line) for line in (tmp_path / "val.answers.jsonl").read_text().splitlines()]
    assert {answer["accuracy"] for answer in answers} <= {0.0, 0.3, 1.0}
    assert report["accuracy"] == pytest.approx(sum(answer["accuracy"] for answer in answers) / 16)
    assert report["accuracy/other"] == 1, "nine of ten say left, whatever the image"
    server = tmp_path / "server.json"
    hidden = evaluate(tmp_path / "run", several, "test-dev", tmp_path / "dev.json", progress=False, submission=server)
    assert hidden is not None
    assert not [name for name in hidden if name.startswith("accuracy")]
    lines = [json.loads(line) for line in (tmp_path / "dev.answers.jsonl").read_text().splitlines()]
    assert [line["question_id"] for line in lines] == [str(10 * n + at) for n in range(200, 204) for at in (0, 1)]
    # As VQA.loadRes checks them, against the questions of the original file.
    results = json.loads(server.read_text())
    original = several.parent / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    asked = {question["question_id"] for question in json.loads(original.read_text())["questions"]}
    assert {result["question_id"] for result in results} == asked
    assert [result["answer"] for result in results] == [line["answer"] for line in lines]
    assert {key for result in results for key in result} == {"question_id", "answer"}
    more = [f"--init_from={tmp_path / 'run'}", "--data.answer_minimum=2"]
    output = start(configuration.load(None, [*flags, *more]), None, _open(several)).summary
    assert re.search("0 new words, 1 new answers; 4 answers, 0 of 48 questions [^;]*$", output)
    fresh = start(configuration.load(None, [*flags, more[1]]), None, _open(several))
    assert re.search("; 4 answers, 0 of 48 questions [^;]*$", fresh.summary)
    assert set(fresh.vocabulary.answers) == {"left", "no", "yes", "middle"}
