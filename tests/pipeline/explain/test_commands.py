"""`laconvnet explain`, the sheet beside the answer of `predict`, and what `eval --explain` gives to the report."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import laconvnet
from laconvnet.launch import cli
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference.evaluate import evaluate
from laconvnet.pipeline.report.gather import gather
from laconvnet.pipeline.report.page import report
from laconvnet.pipeline.report.sheet import sheet
from laconvnet.shards.format.manifest import Manifest
from tests.messages import tells
from tests.pipeline.explain.asked import image, restored
from tests.pipeline.test_report import Elements

TEXT = "the red circle on the Zyzzyva"


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("photo") / "photo.png"
    image().save(file)
    return file


def asked(capsys: pytest.CaptureFixture[str], *line: str | Path) -> dict[str, Any]:
    assert cli.main([str(word) for word in (*line, "--text", TEXT, "--json")]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_explain_answers_as_predict_and_says_more(
    trained: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = asked(capsys, "predict", trained, "--image", photo)
    beside = asked(capsys, "predict", trained, "--image", photo, "--explain", tmp_path / "a.html")
    found = asked(
        capsys, "explain", trained, "--image", photo, "--at", "3,4", "--at", "80,50", "--out", tmp_path / "b.png"
    )
    assert beside == answer
    assert found == answer | {key: found[key] for key in ("words", "unknown", "spread")}
    assert found["words"] == ["the", "red", "circle", "on", "the", "zyzzyva"]
    assert found["unknown"] == ["zyzzyva"]
    assert list(found["spread"]) == ["1", "2", "3", "4", "5"]
    assert all(0 <= value <= 1 for value in found["spread"].values())
    assert '<th scope="col">background' in (tmp_path / "a.html").read_text()
    assert f"{trained}: step" in (tmp_path / "a.html").read_text()
    with Image.open(tmp_path / "b.png") as sheet:
        assert sheet.height > 1000


def test_pixels_are_those_that_were_asked_for(
    trained: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(capsys, "explain", trained, "--image", photo, "--at", "3,4", "--out", tmp_path / "a.html", "--last")
    page = (tmp_path / "a.html").read_text()
    assert "asked for (3, 4)" in page
    assert '<th scope="col">background' not in page


def test_what_cannot_be_explained_is_one_line(
    trained: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["explain", str(trained), "--text", TEXT]
    given = [*start, "--image", str(photo)]
    for line, parts in (
        ([*given, "--at", "90,0"], ("--at: 90,0", "89,59")),
        ([*given, "--out", "a.jpg"], ("--out: a.jpg", ".html")),
        (["predict", *given[1:], "--explain", "a.jpg"], ("--explain: a.jpg", ".png")),
        ([*start, "--image", str(tmp_path / "none.png")], ("--image", "none.png: no such file")),
        ([*given, "--text", "?!"], ("holds no word",)),
        ([*given, "--out", str(photo / "a.html")], (str(photo),)),
    ):
        assert cli.main(line) == 2
        assert tells(capsys.readouterr().err.splitlines()[-1], *parts)


@pytest.fixture(scope="module")
def scored(trained: Path, sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "eval" / "val.json"
    line = ["eval", trained, "--data", sets["refcoco"], "--split", "val", "--explain", "--out", out]
    assert cli.main([str(word) for word in line]) == 0
    return out


def test_the_report_explains_the_examples_that_it_shows(scored: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    (evaluation,) = gather([scored.parent]).evaluations
    made = sheet(evaluation, evaluation.answers())
    assert made.wrong
    for card in (*made.right, *made.wrong):
        assert [word.word for word in card.words] == card.text.replace("-", " ").split()
        assert all(0 <= word.least <= word.most <= 1 for word in card.words)
    assert report([scored.parent], tmp_path / "report.html")
    elements = Elements((tmp_path / "report.html").read_text())
    alts = [image["alt"] or "" for image in elements.of("img")]
    word = made.wrong[0].words[0]
    assert f"{word.word}: weights from {word.least:.2f} to {word.most:.2f}" in alts
    layers = [image["src"] for image in elements.of("img") if ": weights from" in (image["alt"] or "")]
    assert word.image in layers
    assert len(layers) == sum(len(card.words) for card in (*made.right, *made.wrong))


def test_the_maps_are_those_of_the_model(trained: Path, scored: Path, sets: dict[str, Path]) -> None:
    manifest = Manifest.open(sets["refcoco"])
    row = json.loads(scored.with_suffix(".explained.jsonl").read_text().splitlines()[0])
    with Image.open(io.BytesIO(manifest.read_image(manifest.example(row["example"], "sample")))) as photo:
        found = laconvnet.load(trained, resize="dali", batch=1).explain(photo, manifest.example(row["example"], "text"))
    weights = [found.over(word) for word in range(len(found.words))]
    assert [word["word"] for word in row["words"]] == list(found.words)
    for word, one in zip(row["words"], weights, strict=True):
        assert (word["least"], word["most"]) == pytest.approx((one.min(), one.max()), abs=1e-4)
        with Image.open(io.BytesIO(base64.b64decode(word["map"]))) as layer:
            opacity = np.asarray(layer.convert("RGBA"))[..., 3] / (255 * 0.85)
        np.testing.assert_allclose(opacity, one / np.max(weights), atol=1 / 15)


def test_an_evaluation_without_it_leaves_none(
    trained: Path, scored: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    """A file of an evaluation before would tell of other answers."""
    out = tmp_path / "val.json"
    beside = out.with_suffix(".explained.jsonl")
    beside.write_text(scored.with_suffix(".explained.jsonl").read_text())
    line = ["eval", trained, "--data", sets["refcoco"], "--split", "val", "--out", out]
    assert cli.main([str(word) for word in line]) == 0
    assert not beside.exists()
    assert out.with_suffix(".answers.jsonl").read_bytes() == scored.with_suffix(".answers.jsonl").read_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        "{}",
        '{"example": 0, "words": [{"word": "a", "map": "?", "least": 0, "most": 1}]}',
        '{"example": 0, "words": 3}',
        '{"example": 0, "words": [{"word": "a", "map": "aGVsbG8=", "least": 0, "most": 1}]}',
        '{"example": 0, "words": [{"word": "a", "map": "", "least": "x", "most": 1}]}',
    ],
)
def test_what_is_no_map_is_told_in_place_of_the_images(scored: Path, tmp_path: Path, changed: str) -> None:
    for file in scored.parent.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "val.explained.jsonl").write_text(changed + "\n")
    (evaluation,) = gather([tmp_path]).evaluations
    made = sheet(evaluation, evaluation.answers())
    assert tells(made.note, "val.explained.jsonl", "eval --explain")


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        (("--data.blank", "true"), ("--explain", "data.blank")),
        (("--model.generator", "words"), ("block laconv", "generator words")),
    ],
)
def test_a_model_without_anything_to_see_is_not_explained(
    keys: tuple[str, str],
    parts: tuple[str, ...],
    sets: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a batch is read: the models are not trained, but whole."""
    monkeypatch.setattr("laconvnet.pipeline.inference.evaluate.restore", lambda *_: restored(*keys))
    with pytest.raises(ConfigError) as caught:
        evaluate(tmp_path, sets["refcoco"], "val", tmp_path / "val.json", explain=True)
    assert tells(str(caught.value), *parts)
    assert not list(tmp_path.iterdir())
