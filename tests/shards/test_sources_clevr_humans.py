"""CLEVR-Humans: people's questions on CLEVR's images, without programs."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

import pytest

from laconvnet.launch import cli
from laconvnet.shards import sources
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Question
from laconvnet.shards.sets.holdout import identities
from tests.samples import SAMPLES, needs

PICTURES = SAMPLES / "clevr" / "1obj" / "images"
real = needs(PICTURES)


def _samples(root: Path, **options: Any) -> list[RawSample]:
    options = {"images": None, "splits": None, "partition": None, **options}
    return list(sources.get("clevr_humans").samples(root, **options))


def _question(image: int, text: str = "Is it shiny?", split: str = "val", **changes: Any) -> dict[str, Any]:
    name = f"CLEVR_{split}_{image:06}.png"
    entry = {"image_index": image, "image_filename": name, "question": text, "answer": "yes", "split": split}
    return {**entry, **changes}


def _write(root: Path, split: str, questions: list[dict[str, Any]]) -> Path:
    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    (root / f"CLEVR-Humans-{split}.json").write_text(json.dumps({"info": {}, "questions": questions}))
    return root


def test_the_content_in_full(tmp_path: Path) -> None:
    root = _write(
        tmp_path, "val", [_question(3), _question(1, "What  color ?", answer="red"), _question(3, "How many?")]
    )
    _write(root, "train", [_question(7, split="train", question_index=99)])
    samples = sources.get("clevr_humans").samples(root, images=None, splits=None, partition=None)
    assert operator.length_hint(samples) == 3
    got = list(samples)
    assert [sample.record.picture_id for sample in got] == [
        "CLEVR_train_000007",
        "CLEVR_val_000001",
        "CLEVR_val_000003",
    ]
    record = got[2].record
    assert (record.source, record.file_name, record.width, record.height) == (
        *("clevr_humans", "CLEVR_val_000003.png"),
        *(0, 0),
    )
    assert (record.regions, record.licence) == ((), sources.get("clevr_humans").licence)
    assert record.questions == (
        Question("val-0", "val", "Is it shiny?", "yes"),
        Question("val-2", "val", "How many?", "yes"),
    )
    assert got[1].record.questions == (Question("val-1", "val", "What color ?", "red"),)
    assert got[0].record.questions[0].id == "train-0", "the position in the file, whatever else a question says"
    assert got[2].image == root / "images" / "val" / "CLEVR_val_000003.png"


def test_an_image_is_the_same_one_in_clevr(tmp_path: Path) -> None:
    (sample,) = _samples(_write(tmp_path, "val", [_question(3)]))
    mine = identities("clevr_humans", sample.record.file_name, sample.record.coco_id, 1)
    assert mine == identities("clevr", "CLEVR_val_000003.png", None, 1)


def test_a_split_without_answers(tmp_path: Path) -> None:
    question = _question(3, split="test")
    del question["answer"]
    (sample,) = _samples(_write(tmp_path, "test", [question]))
    assert sample.record.questions == (Question("test-0", "test", "Is it shiny?"),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_filename": "../x.png"}, "question val-0: file name '../x.png' leaves its folder"),
        ({"image_filename": 3}, "question val-0: key 'image_filename' is 3, expected str"),
        ({"question": " "}, "question val-0: key 'question' is empty"),
        ({"question": None}, "question val-0: key 'question' is None, expected str"),
        ({"answer": 3}, "question val-0: key 'answer' is 3, expected str"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"CLEVR-Humans-val\.json: {message}"):
        _samples(_write(tmp_path, "val", [_question(0, **changes)]))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder; .*CLEVR-Humans-<split>\.json .*--root"):
        _samples(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no CLEVR-Humans-<split>\.json there; change --root"):
        _samples(tmp_path)
    root = _write(tmp_path, "val", [_question(0)])
    with pytest.raises(InputError, match=r"--split train: .* expected one of val"):
        _samples(root, splits=["train"])
    with pytest.raises(InputError, match="--partition unc: clevr_humans has one partition only"):
        _samples(root, partition="unc")
    (root / "images" / "val").rmdir()
    with pytest.raises(InputError, match=r"images/val: no such folder; .*split val .*--images"):
        _samples(root)


@real
def test_from_the_files_to_a_verified_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _write(tmp_path / "raw", "val", [_question(0), _question(1), _question(0, "What is it?", answer="cube")])
    out = tmp_path / "set"
    build = ["shards", "build", "clevr_humans", "--root", str(root), "--images", str(PICTURES), "--out", str(out)]
    assert cli.main([*build, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["samples"], result["questions"], result["quarantined"]) == (2, 3, 0)
    record = Manifest.open(out).read_record(0)
    assert (record.width, record.height, record.questions[1].answer) == (320, 240, "cube")
    assert cli.main(["shards", "verify", str(out), "--full"]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert cli.main(build) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
