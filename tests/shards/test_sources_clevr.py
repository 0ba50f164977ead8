"""CLEVR, as the generator and as the download write it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from laconvnet.shards import sources
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Question
from tests.samples import SAMPLES, needs

DATA = SAMPLES / "clevr" / "1obj"
real = needs(DATA)


def _samples(root: Path, **options: Any) -> list[RawSample]:
    options = {"images": None, "splits": None, "partition": None, **options}
    return list(sources.get("clevr").samples(root, **options))


def _question(index: int, image: int = 0, function: str = "count", **changes: Any) -> dict[str, Any]:
    return {
        "question_index": index,
        "image_index": image,
        "image_filename": f"CLEVR_val_{image:06}.png",
        "split": "val",
        "question": "How many?",
        "answer": "3",
        "program": [{"function": "scene", "inputs": []}, {"function": function, "inputs": [0]}],
        **changes,
    }


def _write(root: Path, questions: list[dict[str, Any]], split: str = "val") -> Path:
    (root / "questions").mkdir(parents=True, exist_ok=True)
    (root / "images" / split).mkdir(parents=True)
    path = root / "questions" / f"CLEVR_{split}_questions.json"
    path.write_text(json.dumps({"info": {"split": split}, "questions": questions}))
    return root


@real
def test_the_real_samples() -> None:
    samples = _samples(DATA)
    records = [sample.record for sample in samples]
    assert Counter(record.splits for record in records) == {("train",): 9, ("val",): 10, ("test",): 10}
    questions = [question for record in records for question in record.questions]
    assert Counter(question.split for question in questions) == {"train": 30, "val": 42, "test": 44}
    assert len({question.id for question in questions}) == 116
    assert {question.family for question in questions} == {"query_attribute"}
    assert all(sample.image.is_file() for sample in samples)
    assert [record.regions for record in records] == [()] * 29
    first = next(record for record in records if record.picture_id == "CLEVR_train_000000")
    assert (first.file_name, first.width, first.height) == ("CLEVR_train_000000.png", 0, 0)
    assert first.questions[0] == Question(
        "train-0", "train", "What color is the big thing?", "purple", family="query_attribute"
    )
    # No question asks about this image.
    assert "CLEVR_train_000004" not in {record.picture_id for record in records}


@real
def test_real_splits_are_chosen() -> None:
    assert {sample.record.splits for sample in _samples(DATA, splits=["val"])} == {("val",)}
    with pytest.raises(InputError, match=r"--split dev: .* expected one of test, train, val"):
        _samples(DATA, splits=["dev"])


@pytest.mark.parametrize(
    ("function", "family"),
    [
        ("count", "count"),
        ("exist", "exist"),
        ("equal_integer", "compare_number"),
        ("less_than", "compare_number"),
        ("greater_than", "compare_number"),
        ("equal_color", "compare_attribute"),
        ("equal_material", "compare_attribute"),
        ("equal_shape", "compare_attribute"),
        ("equal_size", "compare_attribute"),
        ("query_color", "query_attribute"),
        ("query_material", "query_attribute"),
        ("query_shape", "query_attribute"),
        ("query_size", "query_attribute"),
    ],
)
def test_the_five_families(tmp_path: Path, function: str, family: str) -> None:
    (sample,) = _samples(_write(tmp_path, [_question(0, function=function)]))
    assert sample.record.questions[0].family == family


def test_questions_that_lie_apart_come_together(tmp_path: Path) -> None:
    root = _write(tmp_path, [_question(0, 1), _question(1, 0), _question(2, 1), _question(3, 1)])
    got = {s.record.picture_id: [q.id for q in s.record.questions] for s in _samples(root)}
    assert got == {"CLEVR_val_000000": ["val-1"], "CLEVR_val_000001": ["val-0", "val-2", "val-3"]}
    assert list(got) == sorted(got)


def test_the_hidden_test_split_has_neither_answer_nor_family(tmp_path: Path) -> None:
    question = {key: value for key, value in _question(5).items() if key not in ("answer", "program")}
    (sample,) = _samples(_write(tmp_path, [question], "test"))
    assert sample.record.questions == (Question("test-5", "test", "How many?"),)


def test_images_elsewhere(tmp_path: Path) -> None:
    root = _write(tmp_path, [_question(0)])
    (root / "images").rename(tmp_path / "elsewhere")
    (sample,) = _samples(root, images=tmp_path / "elsewhere")
    assert sample.image == tmp_path / "elsewhere" / "val" / "CLEVR_val_000000.png"
    with pytest.raises(InputError, match=r"images/val: no such folder; .*--images"):
        _samples(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_filename": "../../etc/passwd"}, "val-0: file name '../../etc/passwd' leaves"),
        ({"image_filename": None}, "question val-0: key 'image_filename' is None"),
        ({"question": ""}, "question val-0: key 'question' is empty"),
        ({"answer": 3}, "question val-0: key 'answer' is 3, expected str"),
        ({"question_index": "0"}, "key 'question_index' is '0', expected int"),
        ({"program": []}, "question val-0: key 'program' is empty"),
        ({"program": [{"function": "sing"}]}, "val-0: .*program .*'sing', expected one of count,"),
        ({"program": [{}]}, "question val-0: program: key 'function' or 'type' is missing"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"CLEVR_val_questions\.json: .*{message}"):
        _samples(_write(tmp_path, [_question(0, **changes)]))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"questions: no such folder; .*change --root"):
        _samples(tmp_path)
    (tmp_path / "questions").mkdir()
    with pytest.raises(InputError, match=r"no CLEVR_<split>_questions\.json there"):
        _samples(tmp_path)
    with pytest.raises(InputError, match="--partition unc"):
        _samples(tmp_path, partition="unc")
