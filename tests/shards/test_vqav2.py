"""VQAv2 as visualqa.org publishes it: questions and annotations apart, ten answers each, hidden test splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from laconvnet.shards import sources
from laconvnet.shards.build.builder import build
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Question
from laconvnet.shards.sets import holdout
from tests.samples import SAMPLES, needs

DATA = SAMPLES / "vqav2"
real = needs(DATA)
PARTS = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}


def _samples(root: Path, **options: Any) -> list[RawSample]:
    options = {"images": None, "splits": None, "partition": None, **options}
    return list(sources.get("vqav2").samples(root, **options))


def _question(id: int, image: int = 7, text: str = "What is it?", **changes: Any) -> dict[str, Any]:
    return {"image_id": image, "question": text, "question_id": id, **changes}


def _annotated(id: int, image: int = 7, answers: str = "cat " * 8 + "dog kitten", **changes: Any) -> dict[str, Any]:
    entries = [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number}
        for number, answer in enumerate(answers.split(), 1)
    ]
    facts = {"question_type": "what is", "answer_type": "other", "multiple_choice_answer": "cat"}
    return {"question_id": id, "image_id": image, "answers": entries, **facts, **changes}


def _write(
    root: Path, split: str, questions: list[dict[str, Any]], annotations: list[dict[str, Any]] | None = None
) -> Path:
    part = PARTS[split]
    info = {"info": {"year": 2017}, "data_subtype": part}
    text = json.dumps({**info, "questions": questions})
    (root / f"v2_OpenEnded_mscoco_{part}_questions.json").write_text(text)
    if annotations is not None:
        text = json.dumps({**info, "annotations": annotations})
        (root / f"v2_mscoco_{part}_annotations.json").write_text(text)
    (root / part.replace("-dev", "")).mkdir(exist_ok=True)
    return root


@real
def test_the_real_samples_in_their_layout(tmp_path: Path) -> None:
    (tmp_path / "train2014").symlink_to(DATA)
    for kind in ("OpenEnded_mscoco_train2014_questions", "mscoco_train2014_annotations"):
        (tmp_path / f"v2_{kind}.json").symlink_to(DATA / f"{kind.rpartition('_')[2]}.json")
    (sample,) = _samples(tmp_path)
    record = sample.record
    assert sample.image == tmp_path / "train2014" / "COCO_train2014_000000458752.jpg"
    assert sample.image.is_file()
    assert (record.picture_id, record.coco_id, record.splits) == ("458752", 458752, ("train",))
    people = ("net", "net", "net", "netting", "net", "net", "mesh", "net", "pitcher", "orange")
    assert record.questions == (
        Question("458752000", "train", "What is this photo taken looking through?", "net", people),
        Question("458752001", "train", "What position is this man playing?", "pitcher", _but_one("pitcher", "catcher")),
        Question("458752002", "train", "What color is the players shirt?", "orange", ("orange",) * 10),
    )


def _but_one(answer: str, second: str) -> tuple[str, ...]:
    return (answer, second, *[answer] * 8)


def test_questions_meet_their_annotations_in_any_order(tmp_path: Path) -> None:
    questions = [_question(90, 9), _question(70), _question(91, 9, " How\nmany? "), _question(71)]
    yes = _annotated(71, answers="yes " * 10, answer_type="yes/no", multiple_choice_answer="yes")
    annotations = [yes, _annotated(91, 9), _annotated(70), _annotated(90, 9)]
    first, second = (sample.record for sample in _samples(_write(tmp_path, "val", questions, annotations)))
    assert (first.file_name, second.file_name) == ("COCO_val2014_000000000007.jpg", "COCO_val2014_000000000009.jpg")
    cats = (*["cat"] * 8, "dog", "kitten")
    assert first.questions == (
        Question("70", "val", "What is it?", "cat", cats, "other"),
        Question("71", "val", "What is it?", "yes", ("yes",) * 10, "yes/no"),
    )
    assert [(question.id, question.text) for question in second.questions] == [
        ("90", "What is it?"),
        ("91", "How many?"),
    ]
    assert (first.width, first.height, first.regions, first.source) == (0, 0, (), "vqav2")


def test_the_chosen_answer_is_the_files_and_without_one_the_commonest(tmp_path: Path) -> None:
    other = _annotated(70, multiple_choice_answer="kitten")
    bare = {key: _annotated(71, answers="b a a b b a c c c d")[key] for key in ("question_id", "answers")}
    (sample,) = _samples(_write(tmp_path, "train", [_question(70), _question(71)], [other, bare]))
    assert [(question.answer, question.family) for question in sample.record.questions] == [
        ("kitten", "other"),
        ("b", None),
    ]


def test_test_dev_is_asked_on_the_images_of_test_and_none_is_answered(tmp_path: Path) -> None:
    _write(tmp_path, "test", [_question(70), _question(71), _question(90, 9)])
    _write(tmp_path, "test-dev", [_question(71)])
    first, second = (sample.record for sample in _samples(tmp_path))
    assert first.questions == tuple(
        Question(id, split, "What is it?") for id, split in [("70", "test"), ("71", "test"), ("71", "test-dev")]
    )
    assert (first.file_name, first.coco_id) == ("COCO_test2015_000000000007.jpg", 7)
    assert (first.splits, second.splits) == (("test", "test-dev"), ("test",))
    (alone,) = _samples(tmp_path, splits=["test-dev"])
    assert [(question.id, question.split) for question in alone.record.questions] == [("71", "test-dev")]


def test_splits_are_chosen_among_the_files_there(tmp_path: Path) -> None:
    _write(tmp_path, "val", [_question(70)], [_annotated(70)])
    _write(tmp_path, "test", [_question(80, 8)])
    assert [sample.record.splits for sample in _samples(tmp_path)] == [("val",), ("test",)]
    assert [sample.record.splits for sample in _samples(tmp_path, splits=["test"])] == [("test",)]
    with pytest.raises(InputError, match=r"--split train: .* expected one of test, val"):
        _samples(tmp_path, splits=["train"])
    with pytest.raises(InputError, match=r"--partition unc: vqav2 has one partition only"):
        _samples(tmp_path, partition="unc")
    with pytest.raises(InputError, match=r"no v2_OpenEnded_mscoco_<part>_questions\.json there; change --root"):
        _samples(tmp_path / "val2014")


def test_images_elsewhere(tmp_path: Path) -> None:
    root = _write(tmp_path, "val", [_question(70)], [_annotated(70)])
    (tmp_path / "coco").mkdir()
    (tmp_path / "val2014").rename(tmp_path / "coco" / "val2014")
    (sample,) = _samples(root, images=tmp_path / "coco")
    assert sample.image == tmp_path / "coco" / "val2014" / "COCO_val2014_000000000007.jpg"
    with pytest.raises(InputError, match=r"val2014: no such folder; .* of split val there; .*--images"):
        _samples(root)


def test_answers_that_are_missing_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"v2_mscoco_val2014_annotations\.json: no such file; .* v2_"):
        _samples(_write(tmp_path, "val", [_question(70)]))


@pytest.mark.parametrize(
    ("questions", "annotations", "message"),
    [
        ([_question(70), _question(70, 8)], [_annotated(70)], r"questions\.json: question 70 occurs twice, with other"),
        ([_question(70, -1)], [], r"question_id 70: key 'image_id' is -1, expected 0 .*999999999999"),
        ([_question(70, 10**12)], [], r"key 'image_id' is 1000000000000, expected"),
        ([{"question_id": 70, "question": "?"}], [], r"question_id 70: key 'image_id' is missing"),
        ([_question(70, question_id="70")], [], r"question: key 'question_id' is '70', expected int"),
        ([_question(70, text=" ")], [], r"question_id 70: key 'question' is empty"),
        ([_question(70)], [_annotated(71)], r"annotations\.json: question_id 70 of this split has no annotation"),
        ([_question(70)], [_annotated(70), _annotated(70, answers="a " * 10)], r"question_id 70: .* occurs twice"),
        ([_question(70)], [_annotated(70, 8)], r"question_id 70: key 'image_id' is 8, the question's is 7"),
        ([_question(70)], [_annotated(70, answers="a b c")], r"70: key 'answers' holds 3, expected those of 10 people"),
        ([_question(70)], [{"question_id": 70, "answers": [{}] * 10}], r"70: key 'answer' is missing"),
        ([_question(70)], [_annotated(70, answer_type=1)], r"70: key 'answer_type' is 1, expected str"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, questions: Any, annotations: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        _samples(_write(tmp_path, "val", questions, annotations))
    assert "\n" not in str(caught.value)


def test_an_image_is_that_of_refcoco_with_its_number(tmp_path: Path) -> None:
    """RefCOCO's held-out images are in VQAv2's train, under names that differ in the rest only."""
    root = _write(tmp_path, "train", [_question(70, 581857)], [_annotated(70, 581857)])
    (sample,) = _samples(root)
    ours = holdout.identities("vqav2", sample.record.file_name, sample.record.coco_id, 1)
    theirs = holdout.identities("refcoco", "COCO_train2014_000000581857_16.jpg", None, 2)
    assert set(ours) & set(theirs) == {("COCO id", "581857")}


def test_a_built_set_has_everybodys_answers(tmp_path: Path) -> None:
    _write(tmp_path, "val", [_question(70)], [_annotated(70)])
    _write(tmp_path, "test", [_question(80, 8)])
    _write(tmp_path, "test-dev", [_question(80, 8)])
    for folder, number in (("val2014", 7), ("test2015", 8)):
        pixels = np.full((8, 12, 3), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / folder / f"COCO_{folder}_{number:012d}.jpg")
    samples = sources.get("vqav2").samples(tmp_path, images=None, splits=None, partition=None)
    build(samples, tmp_path / "out", source="vqav2", licence="any", options={}, progress=False)
    manifest = Manifest.open(tmp_path / "out")
    assert manifest.samples["coco_id"].to_pylist() == [7, 8]
    assert manifest.samples["width"].to_pylist() == [12, 12]
    columns = ("split", "item_id", "answer", "answers", "family")
    assert list(zip(*(manifest.examples[name].to_pylist() for name in columns), strict=True)) == [
        ("val", "70", "cat", [*["cat"] * 8, "dog", "kitten"], "other"),
        ("test", "80", None, [], None),
        ("test-dev", "80", None, [], None),
    ]
