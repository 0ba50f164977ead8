"""Wrong answers by kind: each rule by numbers, and the report's counts and examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from laconvnet.pipeline.data.masks import encode
from laconvnet.pipeline.report.failures import RULES, by_kind, of_box, of_mask, of_words
from laconvnet.pipeline.report.gather import gather
from laconvnet.pipeline.report.page import report
from laconvnet.pipeline.report.sheet import Chosen, chosen, sheet
from laconvnet.shards.build.builder import build
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from tests.pipeline.test_report import Elements, text_of

IMAGES = 30
LEFT, RIGHT = (2.0, 4.0, 10.0, 10.0), (20.0, 4.0, 10.0, 10.0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of images of 40 x 20 with two regions, of which the left one has an expression, and a question."""
    folder = tmp_path_factory.mktemp("raw")
    samples = []
    for number in range(IMAGES):
        path = folder / f"{number}.png"
        Image.new("RGB", (40, 20), (number, 90, 200)).save(path)
        mask = np.zeros((20, 40), np.uint8)
        mask[4:14, 2:12] = 1
        left = Region("a", "val", (LEFT,), (Expression("0", f"thing {number}"),), encode(mask))
        question = Question("q", "val", f"what is {number}?", "red", family="color")
        record = Record(
            "toy", f"{number:03d}", path.name, 40, 20, "CC0", (left, Region("b", "val", (RIGHT,))), (question,)
        )
        samples.append(RawSample(record, path))
    out = tmp_path_factory.mktemp("set") / "pairs"
    build(samples, out, source="toy", licence="CC0", options={}, progress=False)
    return out


def result(place: Path, data: Path, kind: str, given: list[dict[str, Any]], **metrics: Any) -> Path:
    """A result with these answers to the first examples of the set, one each."""
    manifest = Manifest.open(data)
    rows = manifest.select("val", kind).tolist()[: len(given)]
    answers = [
        {"example": row, "sample": manifest.example(row, "sample"), "text": manifest.example(row, "text"), **one}
        for row, one in zip(rows, given, strict=True)
    ]
    place.mkdir(parents=True)
    facts = {"split": "val", "examples": len(given), "run": str(place), "data": str(data), "step": 1, **metrics}
    (place / "val.json").write_text(json.dumps(facts))
    (place / "val.answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    return place / "val.json"


def box(iou: float, *sides: float) -> dict[str, Any]:
    return {"box": list(sides), "truth": list(LEFT), "iou": iou, "correct": iou > 0.5, "score": 0.5}


@pytest.mark.parametrize(
    ("sides", "iou", "kind"),
    [
        (RIGHT, 0.0, "another object"),
        ((21.0, 4.0, 10.0, 10.0), 0.3, "another object"),  # 90 / 110 with the other comes before the extent
        ((24.0, 4.0, 10.0, 10.0), 0.0, "elsewhere"),  # 60 / 140
        (LEFT, 0.1, "wrong extent"),
        (LEFT, 0.5, "wrong extent"),
        (LEFT, 0.0999, "elsewhere"),
    ],
)
def test_boxes(sides: tuple[float, float, float, float], iou: float, kind: str) -> None:
    assert of_box(sides, iou, [(0.0, 0.0, 1.0, 1.0), RIGHT]) == kind
    assert of_box(RIGHT, 0.2, []) == "wrong extent"


def masked(*columns: int) -> np.ndarray[Any, Any]:
    found = np.zeros((4, 20), np.uint8)
    found[:, slice(*columns)] = 1
    return found


@pytest.mark.parametrize(
    ("predicted", "truth", "iou", "kind"),
    [
        (masked(0, 0), masked(0, 8), 0.0, "empty"),
        (masked(0, 3), masked(0, 8), 0.375, "too little"),
        (masked(0, 20), masked(0, 8), 0.4, "too much"),
        (masked(4, 12), masked(0, 8), 0.333, "too much"),  # as many pixels
        (masked(7, 20), masked(0, 8), 0.05, "elsewhere"),
        (masked(7, 9), masked(0, 8), 0.1, "too little"),
        (masked(0, 8), masked(0, 0), 0.0, "too much"),
    ],
)
def test_masks(predicted: Any, truth: Any, iou: float, kind: str) -> None:
    assert of_mask(predicted, truth, iou) == kind


@pytest.mark.parametrize(
    ("answer", "truth", "family", "kind"),
    [
        ("blue", "red", {"red", "blue"}, "same family"),
        ("2", "red", {"red", "blue"}, "other family"),
        ("no", "yes", None, "same family"),
        ("2", "10", None, "same family"),
        ("a dog", "cat", None, "same family"),
        ("two", "2", None, "other family"),
        ("yes", "cat", None, "other family"),
    ],
)
def test_words(answer: str, truth: str, family: set[str] | None, kind: str) -> None:
    assert of_words(answer, truth, family) == kind


def test_the_sheet_has_examples_of_each_kind_of_box(pairs: Path, tmp_path: Path) -> None:
    """20 on the other object, 4 beside the true one, 2 elsewhere, 4 right: at most four of each kind are shown."""
    given = [box(0.0, *RIGHT)] * 20 + [box(0.25, *LEFT)] * 4 + [box(0.0, 30, 0, 5, 5)] * 2 + [box(0.9, *LEFT)] * 4
    file = result(tmp_path / "eval", pairs, "expression", given, task="rec", **{"acc@0.5": 4 / 30})
    (evaluation,) = gather([file.parent]).evaluations
    made = sheet(evaluation, evaluation.answers())
    assert [(kind.name, kind.count) for kind in made.kinds] == [
        ("another object", 20),
        ("wrong extent", 4),
        ("elsewhere", 2),
    ]
    assert [card.text for card in made.wrong] == [f"thing {n}" for n in (2, 7, 12, 17, 20, 21, 22, 23, 24, 25)]
    assert [card.traits["failure"] for card in made.wrong] == ["another object"] * 4 + ["wrong extent"] * 4 + [
        "elsewhere"
    ] * 2
    assert not any("failure" in card.traits for card in made.right)
    report([file.parent], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    shown = text_of(page)
    assert f"20 (76.9 %) another object : {RULES['another object']}" in shown
    assert "IoU 0.25 · wrong extent" in shown
    assert "at even distances:" not in shown
    assert "failure" in [select["name"] for select in Elements(page).of("select")]
    assert "words" not in [details.get("class") for details in Elements(page).of("details")]


def test_masks_and_words_of_a_result_have_kinds(pairs: Path) -> None:
    manifest = Manifest.open(pairs)
    truth, half = np.zeros((20, 40), np.uint8), np.zeros((20, 40), np.uint8)
    truth[4:14, 2:12], half[4:14, 2:5] = 1, 1
    masks = [
        {"example": 0, "mask": encode(mask), "truth": encode(truth), "iou": iou}
        for mask, iou in ((half, 0.3), (np.zeros_like(half), 0.0))
    ]
    found = by_kind(manifest, masks, masks)
    assert {kind: len(some) for kind, some in found.items()} == {"empty": 1, "too little": 1}
    words = [{"answer": "blue", "truth": "red", "family": "color"}, {"answer": "2", "truth": "red", "family": "color"}]
    known = [
        *words,
        {"answer": "blue", "truth": "blue", "family": "color"},
        {"answer": "2", "truth": "2", "family": "count"},
    ]
    assert by_kind(manifest, words, known) == {"same family": words[:1], "other family": words[1:]}


def test_answers_whose_truth_is_hidden_are_not_judged(pairs: Path) -> None:
    hidden = [{"example": 0, "text": "what is 0?", "answer": "red", "question_id": "q"}]
    assert chosen(Manifest.open(pairs), hidden) == Chosen([], {}, {})


def test_of_very_many_some_at_even_distances_are_judged(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laconvnet.pipeline.report.sheet._JUDGED", 5)
    file = result(tmp_path / "eval", pairs, "expression", [box(0.0, *RIGHT)] * 20, task="rec", **{"acc@0.5": 0.0})
    (evaluation,) = gather([file.parent]).evaluations
    made = sheet(evaluation, evaluation.answers())
    assert [(kind.name, kind.count) for kind in made.kinds] == [("another object", 5)]
    assert made.wrongs == 20
    report([file.parent], tmp_path / "report.html")
    assert "By kind, of 5 at even distances:" in text_of((tmp_path / "report.html").read_text())
