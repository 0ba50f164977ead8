"""What an answer file holds, digit by digit: four behind the point, two of a box's truth, and the keys of each task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from laconvnet.pipeline.data.masks import decode
from laconvnet.pipeline.tasks.grec import Grec
from laconvnet.pipeline.tasks.rec import iou_xywh
from laconvnet.pipeline.tasks.res import Res
from tests.pipeline.tasks import test_rec as rec
from tests.pipeline.tasks import test_res as res
from tests.pipeline.tasks import test_vqa as vqa


def test_a_boxs() -> None:
    truth = [[1 / 3, 2 / 3, 10.005, 20.123456]]
    answers: list[dict[str, Any]] = [{"box": [1 / 3, 2 / 3, 10.005, 15.0], "score": 1.0}]
    sums = rec.task().score(answers, rec.Truth(truth), np.arange(1))  # type: ignore[arg-type]
    overlap = float(iou_xywh(np.array([answers[0]["box"]]), np.array(truth, np.float32).astype(np.float64))[0])
    assert answers[0]["iou"] == round(overlap, 4) != overlap
    assert answers[0]["truth"] == [0.33, 0.67, 10.01, 20.12]
    assert sums.keys() == {"acc@0.5", "miou"}
    batch = rec.batch_of([[20 / 3, 10 / 3, 19 / 3, 29 / 3]], sides=[[37, 53]])
    (answer,) = rec.task().answer(rec.perfect(batch) / 7, batch)
    assert answer.keys() == {"box", "score"}
    for value in (*answer["box"], answer["score"]):
        assert round(value, 4) == value
    assert any(round(value, 3) != value for value in answer["box"])
    assert round(answer["score"], 3) != answer["score"]


@pytest.mark.parametrize("kind", [Res, Grec])
def test_a_masks(kind: type[Res]) -> None:
    batch = res.batch_of([(64, 64)])
    logits = torch.full((1, 64, 64), -1.0)
    logits[:, 10:20, 10:20] = 1.0
    (answer,) = res.task(kind).answer(logits, batch)
    assert answer["score"] == 0.7311
    predicted = res.block(64, 64, slice(0, 10), slice(0, 30))
    truth = res.block(64, 64, slice(0, 10), slice(10, 30))
    _, (scored,) = res.score(kind, [predicted], [truth])
    assert scored["iou"] == 0.6667
    assert kind is Grec or np.array_equal(decode(scored["truth"], 64, 64), truth)


@pytest.mark.parametrize(("soft", "value"), [(False, 0.6652), (True, 0.8808)])
def test_a_questions(soft: bool, value: float) -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    (answer,) = vqa.task(soft=soft).answer(logits, vqa.batch_of([1]))
    assert answer == {"answer": "no", "score": value}
    people = [["yes"] * 1 + ["no"] * 9]
    _, (scored,) = vqa.score(["yes"], ["no"], ["exist"], people)
    assert scored["question_id"] == "q0"
    assert (scored["truth"], scored["family"], scored["correct"]) == ("no", "exist", False)
    assert scored["accuracy"] == round(scored["accuracy"], 4) == 0.3
