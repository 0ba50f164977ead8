"""Boxes without anchors: the assignment and the loss against a slow transcription, decoding, and that it trains."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from laconvnet.pipeline import distributed
from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.model import HeadsConfig, ModelConfig, build_model
from laconvnet.pipeline.model.heads.points import PointHeadConfig
from laconvnet.pipeline.tasks.boxes import points
from laconvnet.pipeline.tasks.boxes.points import PointBoxes
from laconvnet.pipeline.tasks.rec import Rec, iou_xywh
from tests.pipeline.tasks.terms import total

SIZE, CELLS = 64, 8
STRIDE = SIZE / CELLS
CONFIG = ModelConfig(preset="tiny", head="points", heads=HeadsConfig(points=PointHeadConfig(stride=8)))
Floats = NDArray[np.float64]


def coder(cells: int = CELLS) -> PointBoxes:
    stride: Any = SIZE // cells
    return PointBoxes(replace(CONFIG, heads=HeadsConfig(points=PointHeadConfig(stride=stride))))


def random_output(draw: np.random.Generator, truth: Floats, cells: int = CELLS) -> Floats:
    """Predictions scattered about the truth in some images, about their own cells in others."""
    stride = SIZE / cells
    output = draw.normal(0, 1, (len(truth), 5, cells, cells))
    rows, columns = np.mgrid[:cells, :cells]
    for raw, (x1, y1, x2, y2) in zip(output, truth, strict=True):
        if draw.random() < 0.7:
            spread = draw.choice([0.01, 0.1, 0.5])
            raw[0] = (x1 + x2) / 2 / stride - columns + spread * raw[0]
            raw[1] = (y1 + y2) / 2 / stride - rows + spread * raw[1]
            raw[2] = np.log(max(x2 - x1, 0.1) / stride) + spread * raw[2]
            raw[3] = np.log(max(y2 - y1, 0.1) / stride) + spread * raw[3]
    return output


def random_boxes(draw: np.random.Generator, count: int) -> Floats:
    """Boxes xyxy, from a tenth of a pixel to more than the square, some with their centre outside of it."""
    sides = np.exp(draw.uniform(np.log(0.1), np.log(SIZE * 1.2), (count, 2)))
    centre = draw.uniform(-0.1, 1.1, (count, 2)) * SIZE
    return np.concatenate([centre - sides / 2, centre + sides / 2], 1)


# --- the slow transcription -------------------------------------------------------------------------------------------


def overlap_of(one: list[float], other: list[float]) -> float:
    w = min(one[2], other[2]) - max(one[0], other[0])
    h = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(w, 0) * max(h, 0)
    return shared / max(sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared, 1e-9)


def bce(logit: float, target: float) -> float:
    return max(logit, 0) - logit * target + math.log1p(math.exp(-abs(logit)))


def slow(output: Floats, truth: Floats) -> tuple[dict[str, float], list[set[tuple[int, int]]]]:
    """The loss and the positive cells (row, column), image by image, cell by cell."""
    cells = output.shape[2]
    stride = SIZE / cells
    iou_sum = objectness_sum = 0.0
    taken = []
    for raw, box in zip(output, truth.tolist(), strict=True):
        x1, y1, x2, y2 = box
        overlaps, costs = {}, {}
        for i in range(cells):
            for j in range(cells):
                x, y = (raw[0, i, j] + j) * stride, (raw[1, i, j] + i) * stride
                w, h = math.exp(raw[2, i, j]) * stride, math.exp(raw[3, i, j]) * stride
                overlaps[i, j] = overlap_of([x - w / 2, y - h / 2, x + w / 2, y + h / 2], box)
                middle = (j + 0.5) * stride, (i + 0.5) * stride
                inside = x1 < middle[0] < x2 and y1 < middle[1] < y2
                away = max(abs(middle[0] - (x1 + x2) / 2), abs(middle[1] - (y1 + y2) / 2))
                near = away < 2.5 * stride
                if inside or near:
                    costs[i, j] = -3 * math.log(overlaps[i, j] + 1e-8) + 1e5 * (not (inside and near))
        best = sorted((overlaps[cell] for cell in costs), reverse=True)[:10]
        count = max(int(sum(best)), 1)
        positive = set(sorted(costs, key=lambda cell: (costs[cell], cell))[:count])
        taken.append(positive)
        iou_sum += sum(1 - overlaps[cell] ** 2 for cell in positive)
        objectness_sum += sum(bce(raw[4, i, j], (i, j) in positive) for i in range(cells) for j in range(cells))
    total = max(sum(len(positive) for positive in taken), 1)
    return {"iou": 5 * iou_sum / total, "objectness": objectness_sum / total}, taken


def positives(output: Any, truth: Any) -> list[set[tuple[int, int]]]:
    """The cells that the loss pulls up: the sign of the objectness's gradient tells."""
    made = torch.as_tensor(output, dtype=torch.float64).clone().requires_grad_()
    coder(made.shape[2]).loss(made, torch.as_tensor(truth, dtype=torch.float64))["objectness"].backward()
    assert made.grad is not None
    assert (made.grad[:, :4] == 0).all()
    return [{(i, j) for i, j in torch.nonzero(image < 0).tolist()} for image in made.grad[:, 4]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 5), cells=st.sampled_from([2, 4, 8]))
def test_the_loss_is_the_slow_one(seed: int, count: int, cells: int) -> None:
    draw = np.random.default_rng(seed)
    truth = random_boxes(draw, count)
    output = random_output(draw, truth, cells)
    expected, taken = slow(output, truth)
    terms = coder(cells).loss(torch.from_numpy(output), torch.from_numpy(truth))
    assert list(terms) == ["iou", "objectness"]
    for name, value in terms.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-9), name
    assert positives(output, truth) == taken


def test_the_slow_one_meets_every_rule() -> None:
    """Or the comparison above would say little: many cells and one, cells outside the box, no cell at all."""
    counts = []
    for seed in range(40):
        draw = np.random.default_rng(seed)
        truth = random_boxes(draw, 4)
        counts += [len(positive) for positive in slow(random_output(draw, truth), truth)[1]]
    assert {1, 9} <= set(counts)
    assert max(counts) <= 10
    assert len(set(counts)) > 5


# --- the assignment ---------------------------------------------------------------------------------------------------


def fitting(truth: list[float], cells: int = CELLS) -> Tensor:
    """Every cell predicts exactly this box; objectness is zero."""
    output = torch.zeros(1, 5, cells, cells, dtype=torch.float64)
    stride = SIZE / cells
    steps = torch.arange(cells)
    output[0, 0] = (truth[0] + truth[2]) / 2 / stride - steps
    output[0, 1] = (truth[1] + truth[3]) / 2 / stride - steps[:, None]
    output[0, 2:4] = torch.tensor([truth[2] - truth[0], truth[3] - truth[1]]).div(stride).log()[:, None, None]
    return output


def test_cells_in_the_box_and_near_its_centre_come_first() -> None:
    truth = [4.0, 28.0, 60.0, 36.0]  # 56 x 8 about (32, 32): its border runs through the middles of two rows
    output = fitting(truth)
    # Cells out of the box fit it; those inside are a little off, and still come before them.
    output[0, 2, 3:5] -= 0.05
    outside = positives(output, [truth])
    assert outside == slow(output.numpy(), np.array([truth]))[1]
    wide = [4.0, 27.0, 60.0, 37.0]
    output = fitting(wide)
    output[0, 2, 3:5] -= 0.05
    (taken,) = positives(output, [wide])
    # Four columns lie within 2.5 cells of the centre; the rest of the nine are cells of only one kind.
    assert {(i, j) for i in (3, 4) for j in (2, 3, 4, 5)} <= taken
    assert len(taken) == 9


def test_a_cell_that_fits_far_from_the_box_is_not_taken() -> None:
    truth = [8.0, 8.0, 16.0, 16.0]
    output = torch.zeros(1, 5, CELLS, CELLS, dtype=torch.float64)
    output[0, :2, 7, 7] = 1.5 - 7  # exactly the box, from the far corner
    (taken,) = positives(output, [truth])
    assert taken == {(1, 1)}


def test_of_equal_cells_the_first_are_taken() -> None:
    truth = [0.0, 0.0, 64.0, 64.0]
    output = fitting(truth)
    output[0, 2] -= math.log(2)  # an IoU of a half everywhere, so ten of them make five
    assert positives(output, [truth]) == [{(2, 2), (2, 3), (2, 4), (2, 5), (3, 2)}]


def test_a_good_fit_far_behind_is_distinguished_from_a_better_one_in_float32() -> None:
    """At 1e5 float32 counts in steps of 0.008, which is an IoU of a quarter of a percent."""
    truth = torch.tensor([[26.0, 26.0, 27.0, 27.0]])  # between the middles: no cell is inside
    output = fitting(truth[0].tolist()).float()
    output[0, 2] -= 0.7
    output[0, 2, 4, 4] += 1e-4
    output.requires_grad_()
    coder().loss(output, truth)["objectness"].backward()
    assert output.grad is not None
    (taken,) = [torch.nonzero(image < 0).tolist() for image in output.grad[:, 4]]
    assert [4, 4] in taken


@pytest.mark.parametrize(
    "truth",
    [
        [30.0, 30.0, 30.1, 30.1],  # a tenth of a pixel
        [31.0, 31.0, 31.0, 31.0],  # nothing
        [29.0, 29.0, 31.0, 31.0],  # between the middles of cells
        [60.5, 0.0, 64.0, 0.5],  # at the border
        [0.0, 0.0, 64.0, 64.0],
    ],
)
def test_every_box_of_the_square_has_a_positive_cell_and_a_finite_gradient(truth: list[float]) -> None:
    torch.manual_seed(0)
    output = torch.randn(1, 5, CELLS, CELLS, requires_grad=True)
    terms = coder().loss(output, torch.tensor([truth]))
    total(terms).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()
    assert (output.grad[:, 4] < 0).any()
    assert positives(output.detach().double(), [truth]) == slow(output.detach().double().numpy(), np.array([truth]))[1]


def test_a_box_off_the_grid_has_no_positive_cell() -> None:
    inside, off = [8.0, 8.0, 24.0, 24.0], [200.0, 200.0, 210.0, 210.0]
    torch.manual_seed(0)
    output = torch.randn(2, 5, CELLS, CELLS, requires_grad=True)
    assert positives(output.detach(), [inside, off])[1] == set()
    alone = coder().loss(output[1:], torch.tensor([off]))
    assert alone["iou"] == 0
    expected = torch.nn.functional.softplus(output[1, 4]).sum()
    torch.testing.assert_close(alone["objectness"], expected)
    total(alone).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_wild_outputs_stay_finite() -> None:
    for value in (1e4, -1e4):
        output = torch.full((1, 5, CELLS, CELLS), value, requires_grad=True)
        terms = coder().loss(output, torch.tensor([[10.0, 10.0, 30.0, 30.0]]))
        total(terms).backward()
        assert all(term.isfinite() for term in terms.values())
        assert output.grad is not None
        assert output.grad.isfinite().all()
        assert coder().best(output)[0].isfinite().all()


def test_the_loss_is_float32_whatever_the_output_is() -> None:
    draw = np.random.default_rng(0)
    truth = torch.from_numpy(random_boxes(draw, 3)).float()
    output = torch.from_numpy(random_output(draw, truth.numpy())).bfloat16()
    near, exact = coder().loss(output, truth), coder().loss(output.float(), truth)
    for name, term in near.items():
        assert term.dtype == torch.float32
        assert torch.equal(term, exact[name])
    assert coder().best(output)[0].dtype == torch.float32


def test_the_terms_are_shared_by_all_positive_cells_of_the_batch() -> None:
    output, truth = scattered(4)
    cells = [len(positive) for positive in slow(output.numpy(), truth.numpy())[1]]
    assert len(set(cells)) > 1
    alone = [coder().loss(output[n : n + 1], truth[n : n + 1]) for n in range(4)]
    together = coder().loss(output, truth)
    for name, term in together.items():
        mean = sum(one[name].item() * count for one, count in zip(alone, cells, strict=True)) / sum(cells)
        assert term.item() == pytest.approx(mean)


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [2, 8])
def test_a_perfect_output_costs_nothing_and_is_answered_exactly(cells: int) -> None:
    draw = np.random.default_rng(0)
    sides = draw.uniform(2, 40, (4, 2))
    corner = draw.uniform(0, 1, (4, 2)) * (SIZE - sides)
    truth = torch.from_numpy(np.concatenate([corner, corner + sides], 1))
    output = torch.cat([fitting(box, cells) for box in truth.tolist()])
    output[:, 4] = -30
    for number, positive in enumerate(positives(output, truth)):
        for i, j in positive:
            output[number, 4, i, j] = 30
    assert total(coder(cells).loss(output, truth)).item() == pytest.approx(0, abs=1e-5)
    boxes, score = coder(cells).best(output)
    torch.testing.assert_close(boxes, truth, rtol=0, atol=1e-5)
    torch.testing.assert_close(score, torch.ones(4, dtype=torch.float64))


def test_the_answer_is_the_box_of_highest_objectness() -> None:
    output = torch.zeros(2, 5, CELLS, CELLS)
    output[0, :, 2, 5] = torch.tensor([0.25, -0.5, math.log(2), 0.0, 3.0])
    output[0, 4, 6, 6] = 2.0
    output[1, 4] = -1
    output[1, 4, 7, 0] = -0.5
    boxes, score = coder().best(output)
    # Centre (5.25, 1.5) cells, 2 x 1 cells; centre (0, 7) cells, one cell.
    torch.testing.assert_close(boxes, torch.tensor([[34.0, 8, 50, 16], [-4, 52, 4, 60]]))
    torch.testing.assert_close(score, torch.tensor([3.0, -0.5]).sigmoid())


# --- in training ------------------------------------------------------------------------------------------------------


def test_a_few_steps_learn_a_batch() -> None:
    torch.manual_seed(0)
    model = build_model(CONFIG, 30).train()
    boxes = np.array([[4, 4, 20, 20], [30, 10, 30, 14], [8, 36, 18, 24], [40, 40, 20, 20]], np.float32)
    letterbox = Letterbox.fit(np.full(4, SIZE), np.full(4, SIZE), SIZE)
    images, tokens = torch.rand(4, 3, SIZE, SIZE), torch.randint(2, 30, (4, 6))
    nothing = torch.empty(0)
    batch = Batch(np.arange(4), images, tokens, torch.from_numpy(letterbox.boxes(boxes)), nothing, letterbox)
    task = Rec(CONFIG, Vocabulary(()))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = torch.stack(list(task.loss(model(batch.images, batch.tokens), batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        answers = task.answer(model(batch.images, batch.tokens), batch)
    found = iou_xywh(np.array([answer["box"] for answer in answers]), boxes.astype(float))
    assert found.mean() > 0.5, found


def scattered(count: int) -> tuple[Tensor, Tensor]:
    draw = np.random.default_rng(3)
    truth = random_boxes(draw, count)
    return torch.from_numpy(random_output(draw, truth)), torch.from_numpy(truth)


def test_two_processes_take_the_step_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their terms and gradients are averaged: uneven shares of positive cells must not weigh the images unevenly."""
    output, truth = scattered(5)
    output.requires_grad_()
    terms = coder().loss(output, truth)
    total(terms).backward()
    positive = sum(len(cells) for cells in positives(output.detach(), truth))
    counts: list[float] = []

    def all_reduce(count: Tensor) -> None:
        counts.append(count.item())
        count.fill_(positive)

    monkeypatch.setattr(points, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    means, gradient = dict.fromkeys(terms, 0.0), torch.zeros_like(output)
    for part in (slice(0, 2), slice(2, 5)):
        mine = output[part].detach().requires_grad_()
        found = coder().loss(mine, truth[part])
        total(found).backward()
        assert mine.grad is not None
        gradient[part] = mine.grad / 2
        means = {name: means[name] + term.item() / 2 for name, term in found.items()}
    assert sum(counts) == positive
    assert counts[0] != counts[1]
    assert means == pytest.approx({name: term.item() for name, term in terms.items()})
    torch.testing.assert_close(gradient, output.grad)
