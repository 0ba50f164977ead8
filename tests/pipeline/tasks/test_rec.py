"""The box of the referent: its targets, its loss against a slow transcription, its answer and its score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.model import HeadsConfig, ModelConfig
from laconvnet.pipeline.model.heads.anchors import AnchorHeadConfig
from laconvnet.pipeline.tasks.rec import Rec, iou_xywh
from tests.pipeline.tasks.terms import total

SIZE, CELLS = 64, 8
STRIDE = SIZE / CELLS
ANCHORS = ((9, 9), (14, 8), (30, 40))
Floats = NDArray[np.float64]


def task(anchors: tuple[tuple[int, int], ...] = ANCHORS) -> Rec:
    return Rec(ModelConfig(heads=HeadsConfig(anchors=AnchorHeadConfig(stride=8, sizes=anchors))), Vocabulary(()))


def batch_of(boxes: Any, sides: Any = None, size: int = SIZE) -> Batch:
    """A batch of these boxes, xywh on images of these sides."""
    boxes = np.asarray(boxes, np.float32)
    sides = np.full((len(boxes), 2), size) if sides is None else np.asarray(sides)
    letterbox = Letterbox.fit(sides[:, 0], sides[:, 1], size)
    nothing = torch.empty(0)
    return Batch(np.arange(len(boxes)), nothing, nothing, torch.from_numpy(letterbox.boxes(boxes)), nothing, letterbox)


class Truth:
    """As much of the examples as scoring needs."""

    def __init__(self, boxes: Any) -> None:
        self._boxes = np.asarray(boxes, np.float32)

    def boxes(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._boxes[rows]


def best_anchor(w: float, h: float, anchors: tuple[tuple[int, int], ...] = ANCHORS) -> int:
    def fit(anchor: tuple[int, int]) -> float:
        shared = min(w, anchor[0]) * min(h, anchor[1])
        return shared / (w * h + anchor[0] * anchor[1] - shared)

    return max(range(len(anchors)), key=lambda number: fit(anchors[number]))


def perfect(batch: Batch, anchors: tuple[tuple[int, int], ...] = ANCHORS) -> torch.Tensor:
    """The output that stands for exactly these boxes."""
    output = torch.zeros(len(batch.boxes), len(anchors), 5, CELLS, CELLS, dtype=torch.float64)
    output[:, :, 4] = -20
    for number, (x1, y1, x2, y2) in enumerate(batch.boxes.double().tolist()):
        x, y, w, h = (x1 + x2) / 2 / STRIDE, (y1 + y2) / 2 / STRIDE, x2 - x1, y2 - y1
        column, row = min(int(x), CELLS - 1), min(int(y), CELLS - 1)
        anchor = best_anchor(w, h, anchors)
        dx, dy = (min(max(value, 1e-9), 1 - 1e-9) for value in (x - column, y - row))
        values = [math.log(dx / (1 - dx)), math.log(dy / (1 - dy))]
        values += [math.log(w / anchors[anchor][0]), math.log(h / anchors[anchor][1]), 20]
        output[number, anchor, :, row, column] = torch.tensor(values, dtype=torch.float64)
    return output


def inside(draw: np.random.Generator, count: int) -> Floats:
    """Boxes xywh inside the square, from 2 pixels to nearly all of it."""
    sides = draw.uniform(2, SIZE - 1, (count, 2))
    corner = draw.uniform(0, 1, (count, 2)) * (SIZE - sides)
    return np.concatenate([corner, sides], 1)


# --- the loss ---------------------------------------------------------------------------------------------------------


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def bce(logit: float, target: float) -> float:
    return max(logit, 0) - logit * target + math.log1p(math.exp(-abs(logit)))


def overlap(one: list[float], other: list[float]) -> float:
    w = min(one[2], other[2]) - max(one[0], other[0])
    h = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(w, 0) * max(h, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def smooth_l1(difference: float, sigma: float = 3.0) -> float:
    """By MCN's formula (model/mcn_model.py): (sigma x)^2 / 2 up to 1 / sigma^2, then |x| - 1 / (2 sigma^2)."""
    if abs(difference) < 1 / sigma**2:
        return 0.5 * (sigma * difference) ** 2
    return abs(difference) - 0.5 / sigma**2


def slow_loss(output: Floats, boxes: Floats) -> dict[str, float]:
    """YOLOv3's terms, cell by cell: boxes are xyxy on the square."""
    total = {"xy": 0.0, "wh": 0.0, "objectness": 0.0}
    for raw, truth in zip(output, boxes.tolist(), strict=True):
        w, h = truth[2] - truth[0], truth[3] - truth[1]
        x, y = (truth[0] + truth[2]) / 2 / STRIDE, (truth[1] + truth[3]) / 2 / STRIDE
        column, row, anchor = min(int(x), CELLS - 1), min(int(y), CELLS - 1), best_anchor(w, h)
        weight = 2 - (w / SIZE) * (h / SIZE)
        own = raw[anchor, :, row, column]
        total["xy"] += weight * (bce(own[0], x - column) + bce(own[1], y - row))
        for value, side, prior in zip(own[2:4], (w, h), ANCHORS[anchor], strict=True):
            total["wh"] += weight * 0.5 * smooth_l1(value - math.log(side / prior))
        for a in range(len(ANCHORS)):
            for i in range(CELLS):
                for j in range(CELLS):
                    tx, ty, tw, th, objectness = raw[a, :, i, j]
                    cx, cy = (sigmoid(tx) + j) * STRIDE, (sigmoid(ty) + i) * STRIDE
                    half = math.exp(tw) * ANCHORS[a][0] / 2, math.exp(th) * ANCHORS[a][1] / 2
                    box = [cx - half[0], cy - half[1], cx + half[0], cy + half[1]]
                    if (a, i, j) == (anchor, row, column):
                        total["objectness"] += bce(objectness, 1)
                    elif overlap(box, truth) <= 0.5:
                        total["objectness"] += bce(objectness, 0)
    return {name: value / len(output) for name, value in total.items()}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 4))
def test_the_loss_is_the_slow_one(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    batch = batch_of(inside(draw, count))
    output = draw.normal(0, 1, (count, len(ANCHORS), 5, CELLS, CELLS))
    terms = task().loss(torch.from_numpy(output), batch)
    expected = slow_loss(output, batch.boxes.double().numpy())
    assert set(terms) == {"xy", "wh", "objectness"}
    for name, value in terms.items():
        assert value.item() == pytest.approx(expected[name], rel=2e-5), name


@pytest.mark.parametrize(("off", "pull"), [(0.01, 9 * 0.01), (0.1, 0.9), (0.2, 1.0), (3.0, 1.0)])
def test_the_sides_are_pulled_as_in_mcn(off: float, pull: float) -> None:
    """By sigma^2 x near the truth and by 1 from 1 / 9 on, times (2 - w h) / 2."""
    truth = np.array([[10.0, 10.0, 16.0, 8.0]])
    output = perfect(batch_of(truth))
    output[:, :, 2] += off
    task().loss(output.requires_grad_(), batch_of(truth))["wh"].backward()
    assert output.grad is not None
    weight = (2 - 16 * 8 / SIZE**2) / 2
    assert output.grad[0, :, 2].sum().item() == pytest.approx(weight * pull, rel=1e-4)


def test_some_cells_are_ignored() -> None:
    """The slow loss has to meet the rule it transcribes: boxes that fit elsewhere are no negatives."""
    batch = batch_of([[20, 16, 30, 40]])
    output = torch.zeros(1, len(ANCHORS), 5, CELLS, CELLS, dtype=torch.float64, requires_grad=True)
    task().loss(output, batch)["objectness"].backward()
    assert output.grad is not None
    gradient = output.grad[0, :, 4]
    assert gradient[2, 4, 4] < 0  # the centre (35, 36), the third anchor
    assert (gradient < 0).sum() == 1
    assert gradient[2, 4, 3] == 0  # nearly the same box, from the cell beside
    assert gradient[2, 0, 0] > 0
    assert (gradient[:2] > 0).all()  # the small anchors overlap it by less than a half
    assert 1 < (gradient == 0).sum() < 30


def test_large_boxes_weigh_less_by_their_share_of_the_square() -> None:
    small, large = batch_of([[28, 28, 8, 8]]), batch_of([[0, 0, 64, 64]])
    output = torch.zeros(1, len(ANCHORS), 5, CELLS, CELLS)
    # Both centres lie on a corner of cells, so both x and y cost log 2 each.
    assert task().loss(output, small)["xy"].item() == pytest.approx((2 - 1 / 64) * 2 * math.log(2), rel=1e-5)
    assert task().loss(output, large)["xy"].item() == pytest.approx(1 * 2 * math.log(2), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_perfect_output_costs_nothing_more_and_is_answered_exactly(seed: int) -> None:
    truth = inside(np.random.default_rng(seed), 3)
    batch = batch_of(truth)
    output = perfect(batch).requires_grad_()
    terms = task().loss(output, batch)
    assert terms["wh"].item() == pytest.approx(0, abs=1e-6)
    assert terms["objectness"].item() == pytest.approx(0, abs=1e-4)
    # BCE against a fraction is never zero, but it is at its least: nothing pulls.
    total(terms).backward()
    assert output.grad is not None
    assert output.grad.abs().max() < 1e-5
    answers = task().answer(output.detach(), batch)
    sums = task().score(answers, Truth(truth), np.arange(3))  # type: ignore[arg-type]
    assert sums["acc@0.5"].tolist() == [3, 3]
    assert all(answer["iou"] > 0.98 for answer in answers)  # answers are rounded to a hundredth of a pixel
    assert all(answer["score"] == 1 for answer in answers)


def test_a_centre_on_a_corner_of_cells_costs_nothing_at_all() -> None:
    batch = batch_of([[16, 24, 16, 16]])
    terms = task().loss(perfect(batch), batch)
    assert total(terms).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("anchor_order", "expected"), [(ANCHORS, 0), (ANCHORS[::-1], 2)])
def test_the_anchor_of_the_likest_shape_answers(anchor_order: tuple[tuple[int, int], ...], expected: int) -> None:
    output = torch.zeros(1, 3, 5, CELLS, CELLS, requires_grad=True)
    task(anchor_order).loss(output, batch_of([[10, 10, 9, 10]]))["objectness"].backward()
    assert output.grad is not None
    assert torch.nonzero(output.grad[0, :, 4] < 0).tolist() == [[expected, 1, 1]]


def test_equal_anchors_leave_the_first_one_the_box() -> None:
    output = torch.zeros(1, 2, 5, CELLS, CELLS, requires_grad=True)
    task(((9, 9), (9, 9))).loss(output, batch_of([[10, 10, 9, 9]]))["objectness"].backward()
    assert output.grad is not None
    assert torch.nonzero(output.grad[0, :, 4] < 0).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(
    ("box", "cell"),
    [([64, 64, 0, 0], (7, 7)), ([63.9, 30, 0.1, 4], (4, 7)), ([0, 0, 0.5, 0.5], (0, 0)), ([62, 0, 2, 2], (0, 7))],
)
def test_boxes_at_the_border_belong_to_the_last_cells(box: list[float], cell: tuple[int, int]) -> None:
    output = torch.zeros(1, len(ANCHORS), 5, CELLS, CELLS, requires_grad=True)
    terms = task().loss(output, batch_of([box]))
    assert all(torch.isfinite(term) for term in terms.values())
    total(terms).backward()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()
    assert [tuple(place) for place in torch.nonzero(output.grad[0, :, 4] < 0)[:, 1:].tolist()] == [cell]
    tx, ty = output.grad[0, :, :2, cell[0], cell[1]].sum(0).tolist()
    if box == [64, 64, 0, 0]:  # the corner itself: pulled to the far end of the last cell, no further
        assert (tx, ty) == pytest.approx((-1, -1), abs=1e-3)


def test_the_terms_are_means_over_the_batch() -> None:
    draw = np.random.default_rng(0)
    truth, output = inside(draw, 4), torch.from_numpy(draw.normal(0, 1, (4, len(ANCHORS), 5, CELLS, CELLS)))
    together = task().loss(output, batch_of(truth))
    alone = [task().loss(output[n : n + 1], batch_of(truth[n : n + 1])) for n in range(4)]
    for name, value in together.items():
        assert value.item() == pytest.approx(sum(one[name].item() for one in alone) / 4)


def test_wild_outputs_stay_finite() -> None:
    output = torch.full((1, len(ANCHORS), 5, CELLS, CELLS), 1e4, requires_grad=True)
    terms = task().loss(output, batch_of([[10, 10, 20, 20]]))
    total(terms).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()
    (answer,) = task().answer(output.detach(), batch_of([[10, 10, 20, 20]]))
    assert answer["box"] == [0, 0, SIZE, SIZE]


# --- the answer and its score -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(200, 100), (100, 200), (640, 427), (33, 61)])
def test_answers_are_boxes_of_the_original_image(sides: tuple[int, int]) -> None:
    """A box of the square of 64 would overlap the truth by far less than a half."""
    width, height = sides
    truth = np.array([[0.6 * width, 0.5 * height, 0.35 * width, 0.4 * height]])
    batch = batch_of(truth, [sides])
    answers = task().answer(perfect(batch), batch)
    np.testing.assert_allclose(answers[0]["box"], truth[0], atol=0.02)
    sums = task().score(answers, Truth(truth), np.arange(1))  # type: ignore[arg-type]
    assert sums["acc@0.5"].tolist() == [1, 1]
    assert sums["miou"][0] == pytest.approx(1, abs=2e-3)
    np.testing.assert_allclose(answers[0]["truth"], truth[0], atol=0.01)
    assert answers[0]["iou"] == pytest.approx(1, abs=2e-3)
    on_square = batch.boxes.numpy().astype(float)
    on_square[:, 2:] -= on_square[:, :2]
    assert iou_xywh(on_square, truth)[0] < 0.5


def test_the_answer_is_the_box_of_highest_objectness() -> None:
    output = torch.zeros(2, len(ANCHORS), 5, CELLS, CELLS)
    output[0, 1, 4, 2, 5], output[0, 0, 4, 6, 6] = 3.0, 2.0
    output[1, 0, 4, 0, 0] = -1.0  # the rest is zero and equal: the first of them answers
    first, second = task().answer(output, batch_of([[0, 0, 1, 1]] * 2))
    assert first["box"] == [5.5 * 8 - 7, 2.5 * 8 - 4, 14, 8]
    assert first["score"] == pytest.approx(sigmoid(3), abs=1e-4)
    assert second["box"] == [1.5 * 8 - 4.5, 0, 9, 8.5]  # cell (0, 1), cut at the upper border
    assert second["score"] == 0.5


def test_scores_are_sums_and_counts_and_a_half_is_not_found() -> None:
    """v1 Sec. 4.1, v2 Sec. 5.1: an IoU larger than 0.5. Rounded to four digits the second box's is 0.5, too."""
    truth = [[0, 0, 10, 10]] * 5
    boxes = [[0, 0, 10, 5], [0, 0, 10, 5.0001], [0, 0, 10, 10], [20, 20, 5, 5], [0, 0, 0, 0]]
    answers: list[dict[str, Any]] = [{"box": box, "score": 1.0} for box in boxes]
    sums = task().score(answers, Truth(truth), np.arange(5))  # type: ignore[arg-type]
    assert sums["acc@0.5"].tolist() == [2, 5]
    np.testing.assert_allclose(sums["miou"], [1 + 0.5 + 0.50001, 5])
    assert [answer["iou"] for answer in answers] == [0.5, 0.5, 1, 0, 0]
    assert [answer["correct"] for answer in answers] == [False, True, True, False, False]
    assert answers[1]["truth"] == [0, 0, 10, 10]


def test_iou_by_counting_pixels() -> None:
    draw = np.random.default_rng(0)
    pairs = draw.integers(0, 12, (2, 200, 4)).astype(float)
    pairs[..., 2:] += 1
    grid = np.zeros((2, 200, 30, 30), bool)
    for one in range(2):
        for number, (x, y, w, h) in enumerate(pairs[one].astype(int)):
            grid[one, number, y : y + h, x : x + w] = True
    expected = (grid[0] & grid[1]).sum((1, 2)) / (grid[0] | grid[1]).sum((1, 2))
    np.testing.assert_allclose(iou_xywh(pairs[0], pairs[1]), expected)
