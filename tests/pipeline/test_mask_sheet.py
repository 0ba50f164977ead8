"""The report on masks: drawn into the images, with what was said and how well it fits."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.masks import encode
from laconvnet.pipeline.report.gather import gather
from laconvnet.pipeline.report.overlay import PREDICTED, TRUE
from laconvnet.pipeline.report.page import report
from laconvnet.pipeline.report.sheet import sheet
from tests.messages import tells


def result(folder: Path, data: Path, **changes: Any) -> Path:
    """The result of a model that takes every other referent's whole image; ``changes`` go into every answer."""
    examples = Examples.open(data, "expression", "val")
    answers = []
    rows = examples.rows.tolist()
    for row, text, true in zip(rows, examples.texts(examples.rows), examples.masks(examples.rows), strict=True):
        given = true if row % 2 else np.ones_like(true)
        shared = float((given & true).sum() / max(1, (given | true).sum())) if given.any() else 1.0
        answer = {"example": row, "text": text, "mask": encode(given), "truth": encode(true), "iou": shared}
        answers.append(answer | changes)
    folder.mkdir(parents=True)
    facts = {"task": "grec", "split": "val", "examples": len(answers), "step": 3, "run": str(folder), "data": str(data)}
    metrics = {"giou": 0.5, "ciou": 0.25, "n_acc": 0.5, "t_acc": 1.0}
    (folder / "val.json").write_text(json.dumps(facts | metrics))
    (folder / "val.answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    return folder


def test_both_masks_are_drawn_into_the_picture(groups: Path, tmp_path: Path) -> None:
    folder = result(tmp_path / "masks", groups)
    (evaluation,) = gather([folder]).evaluations
    answers = evaluation.answers()
    made = sheet(evaluation, answers)
    assert made.form == "masks"
    assert (made.rights, made.wrongs) == (10, 10)
    card = next(card for card in made.wrong if card.text == "left box")
    assert card.box is None
    assert card.iou is not None
    assert card.iou < 0.5
    assert "predicted mask: 100 % of it, true mask: " in card.alt
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(card.image.split(",", 1)[1]))))
    answer = next(answer for answer in answers if answer["text"] == "left box" and answer["iou"] == card.iou)
    examples = Examples.open(groups, "expression", "val")
    (true,) = examples.masks(np.array([answer["example"]]))
    assert pixels.shape == (*true.shape, 3)
    assert pixels[0, 0].tolist() == [round(0.4 * side) for side in PREDICTED], "black, tinted: all of it is predicted"
    rows, columns = np.nonzero(true)
    for row, column in ((rows.min(), columns.min()), (rows.max(), columns.max())):
        assert (pixels[row, column] == TRUE).all()
    # Within: white, tinted by the prediction alone.
    assert pixels[rows.mean().astype(int), columns.mean().astype(int)].tolist() == [255, 179, 153]
    nothing = next(card for card in made.right if card.text == "a unicorn")
    assert "predicted mask: nothing, true mask: nothing" in nothing.alt


def test_the_page_shows_them_with_a_legend(groups: Path, tmp_path: Path) -> None:
    report([result(tmp_path / "masks", groups)], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for words in ("predicted mask", "true mask", "IoU 1.00", "generalised IoU", "cumulative IoU"):
        assert words in page
    assert "predicted box" not in page


@pytest.mark.parametrize(("iou", "right"), [(0.5, 0), (0.5001, 20)])
def test_an_overlap_of_exactly_a_half_is_not_right(groups: Path, tmp_path: Path, iou: float, right: int) -> None:
    (evaluation,) = gather([result(tmp_path / "masks", groups, iou=iou)]).evaluations
    made = sheet(evaluation, evaluation.answers())
    assert (made.rights, made.wrongs) == (right, 20 - right)


@pytest.mark.parametrize("mask", [{"size": [10**9, 10**9], "counts": "P2"}, "no mask", None])
def test_a_mask_of_something_else_is_told(groups: Path, tmp_path: Path, mask: object) -> None:
    (evaluation,) = gather([result(tmp_path / "masks", groups, mask=mask)]).evaluations
    made = sheet(evaluation, evaluation.answers())
    assert made.form == "none"
    assert tells(made.note, "images", "no mask")
