"""`laconvnet explain`, and the sheet beside the answer of `laconvnet predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from laconvnet.launch import cli
from tests.messages import tells
from tests.pipeline.explain.asked import image

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
