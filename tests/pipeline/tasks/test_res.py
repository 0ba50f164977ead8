"""The mask of the referent: its loss, its answer on the original image, its metrics; and those of groups."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.data.loader import Batch, DataConfig
from laconvnet.pipeline.data.masks import decode, encode
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference import evaluate
from laconvnet.pipeline.inference.restore import Restored
from laconvnet.pipeline.model import ModelConfig
from laconvnet.pipeline.tasks import TASKS, Task
from laconvnet.pipeline.tasks.base import Sums, add
from laconvnet.pipeline.tasks.grec import FEWEST_PIXELS, Grec
from laconvnet.pipeline.tasks.res import Res

SIZE = 64
Mask = NDArray[np.uint8]


def task(kind: type[Res] = Res) -> Res:
    return kind(ModelConfig(task="res"), Vocabulary(()))


def batch_of(sides: list[tuple[int, int]], masks: torch.Tensor | None = None) -> Batch:
    """A batch of images of these sides (width, height)."""
    width, height = np.array(sides).T
    nothing = torch.empty(0)
    letterbox = Letterbox.fit(width, height, SIZE)
    return Batch(np.arange(len(sides)), nothing, nothing, nothing, nothing, letterbox, masks)


def block(height: int, width: int, rows: slice, columns: slice) -> Mask:
    mask = np.zeros((height, width), np.uint8)
    mask[rows, columns] = 1
    return mask


def logits_of(masks: list[Mask], batch: Batch) -> torch.Tensor:
    """The output that stands for exactly these masks."""
    squares = np.stack([batch.letterbox.mask(index, mask) for index, mask in enumerate(masks)])
    return torch.from_numpy(squares).float() * 20 - 10


class Truth:
    """As much of the examples as scoring needs."""

    def __init__(self, masks: list[Mask]) -> None:
        self._masks = masks

    def masks(self, rows: NDArray[np.int64]) -> list[Mask]:
        return [self._masks[row] for row in rows]

    def boxes(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.array([[0 if self._masks[row].any() else np.nan] * 4 for row in rows], np.float32)


def score(kind: type[Res], masks: list[Mask], truth: list[Mask]) -> tuple[Sums, list[dict[str, Any]]]:
    answers: list[dict[str, Any]] = [{"mask": encode(mask), "score": 0.9} for mask in masks]
    return task(kind).score(answers, Truth(truth), np.arange(len(masks))), answers  # type: ignore[arg-type]


def value(sums: Sums) -> dict[str, float]:
    return {name: float(pair[0] / pair[1]) for name, pair in sums.items()}


# --- loss and answer --------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_cross_entropy_of_the_pixels() -> None:
    output = torch.randn(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    masks = (torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) > 0.7).to(torch.uint8)
    slow = 0.0
    for logit, label in zip(output.flatten().tolist(), masks.flatten().tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        slow -= math.log(probability if label else 1 - probability)
    terms = task().loss(output, batch_of([(64, 64), (64, 64)], masks))
    assert set(terms) == {"mask"}
    assert terms["mask"].item() == pytest.approx(slow / output.numel(), rel=1e-5)
    assert terms["mask"].dtype == torch.float32


SIDES = [(64, 64), (96, 64), (40, 130), (33, 20), (1, 64)]


@pytest.mark.parametrize("side", SIDES)
def test_the_answer_lies_on_the_original_image(side: tuple[int, int]) -> None:
    width, height = side
    mask = block(height, width, slice(height // 4, height // 2 + 1), slice(width // 3, width))
    batch = batch_of([side])
    (answer,) = task().answer(logits_of([mask], batch), batch)
    assert json.loads(json.dumps(answer)) == answer
    found = decode(answer["mask"], height, width)
    either = (found | mask).sum()
    assert (found & mask).sum() / either > 0.9
    if max(side) == SIZE:
        np.testing.assert_array_equal(found, mask)
    assert answer["score"] > 0.9


def test_the_padding_is_no_part_of_the_answer() -> None:
    batch = batch_of([(64, 32), (20, 40)])
    logits = torch.full((2, SIZE, SIZE), 10.0)
    logits[0, 16:48] = -10
    flat, full = task().answer(logits, batch)
    assert not decode(flat["mask"], 32, 64).any(), "all of it was padding"
    assert flat["score"] == 0
    assert decode(full["mask"], 40, 20).all()


def test_the_outline_is_where_the_probability_is_a_half() -> None:
    """Between pixel centres of logit -1 and 3 the line runs a quarter of the way along: bilinear, on logits."""
    batch = batch_of([(8 * SIZE, 8 * SIZE)])
    logits = torch.full((1, SIZE, SIZE), -1.0)
    logits[:, :, 32:] = 3
    (answer,) = task().answer(logits, batch)
    found = decode(answer["mask"], 8 * SIZE, 8 * SIZE)
    # Centres lie at 8 * 31.5 and 8 * 32.5; a quarter of the way is column 254.
    assert found[:, 254:].all()
    assert not found[:, :254].any()
    at_a_half = torch.zeros(1, SIZE, SIZE)
    assert not decode(task().answer(at_a_half, batch)[0]["mask"], 8 * SIZE, 8 * SIZE).any()


# --- metrics ----------------------------------------------------------------------------------------------------------


def brute(predicted: Mask, true: Mask) -> tuple[int, int]:
    pairs = list(zip(predicted.flatten().tolist(), true.flatten().tolist(), strict=True))
    return sum(a and b for a, b in pairs), sum(a or b for a, b in pairs)


def drawn(seed: int, count: int) -> tuple[list[Mask], list[Mask]]:
    draw = np.random.default_rng(seed)
    sides = draw.integers(8, 20, (count, 2))
    truth = [(draw.random(tuple(side)) < 0.5).astype(np.uint8) for side in sides]
    return [np.where(draw.random(mask.shape) < 0.2, 1 - mask, mask).astype(np.uint8) for mask in truth], truth


def test_the_metrics_by_hand() -> None:
    """IoUs 1, 1/2 and 0 over unions of 100, 200 and 300 pixels."""
    truth = [block(20, 40, slice(0, 10), slice(0, 10))] * 3
    predicted = [
        truth[0],
        block(20, 40, slice(0, 10), slice(0, 20)),
        block(20, 40, slice(0, 10), slice(20, 40)),
    ]
    sums, answers = score(Res, predicted, truth)
    assert {name: pair.tolist() for name, pair in sums.items()} == {
        "miou": [1.5, 3],
        "oiou": [200, 600],
        "pr@0.5": [2, 3],
        "pr@0.6": [1, 3],
        "pr@0.7": [1, 3],
        "pr@0.8": [1, 3],
        "pr@0.9": [1, 3],
    }
    assert [answer["iou"] for answer in answers] == [1, 0.5, 0]
    assert all(answer["truth"] == encode(truth[0]) for answer in answers)


def test_one_pixel_is_as_whole_as_any() -> None:
    """The smallest mask there is: what keeps an empty one from being divided by must not halve it."""
    pixel = np.zeros((8, 8), np.uint8)
    pixel[3, 4] = 1
    sums, answers = score(Res, [pixel], [pixel])
    assert answers[0]["iou"] == 1
    assert sums["miou"].tolist() == [1, 1]


def test_sums_of_batches_add_up_to_those_of_the_whole() -> None:
    predicted, truth = drawn(0, 23)
    for kind in (Res, Grec):
        whole, _ = score(kind, predicted, truth)
        total: Sums = {}
        for part in (slice(0, 7), slice(7, 8), slice(8, 23)):
            add(total, score(kind, predicted[part], truth[part])[0])
        assert total.keys() == whole.keys()
        for name in whole:
            np.testing.assert_allclose(total[name], whole[name])
    pixels = [brute(one, other) for one, other in zip(predicted, truth, strict=True)]
    assert value(whole)["giou"] == pytest.approx(np.mean([shared / covered for shared, covered in pixels]))
    assert value(whole)["ciou"] == pytest.approx(
        sum(shared for shared, _ in pixels) / sum(covered for _, covered in pixels)
    )


NOTHING = np.zeros((20, 40), np.uint8)
THING, OTHER = block(20, 40, slice(0, 10), slice(0, 10)), block(20, 40, slice(0, 10), slice(5, 15))


def test_groups_by_the_rules_of_their_authors() -> None:
    cases = {
        "both empty": (NOTHING, NOTHING),
        "nothing there, something said": (THING, NOTHING),
        "something there, nothing said": (NOTHING, THING),
        "and once more": (NOTHING, THING),
        "half of it": (OTHER, THING),
    }
    predicted, truth = ([pair[side] for pair in cases.values()] for side in (0, 1))
    sums, answers = score(Grec, predicted, truth)
    assert [answer["iou"] for answer in answers] == [1, 0, 0, 0, round(50 / 150, 4)]
    assert {name: pair.tolist() for name, pair in sums.items()} == {
        "giou": [1 + 50 / 150, 5],
        "ciou": [50, 100 + 100 + 100 + 150],
        "n_acc": [1, 2],
        "t_acc": [1, 3],
    }


def test_what_a_batch_has_none_of_is_not_divided_by() -> None:
    assert score(Grec, [NOTHING], [NOTHING])[0].keys() == {"giou", "n_acc"}
    assert score(Grec, [THING], [THING])[0].keys() == {"giou", "ciou", "t_acc"}
    assert "oiou" not in score(Res, [NOTHING], [NOTHING])[0]


@pytest.mark.parametrize(("pixels", "kept"), [(FEWEST_PIXELS - 1, 0), (FEWEST_PIXELS, FEWEST_PIXELS)])
def test_under_fifty_pixels_of_the_original_image_are_nothing(pixels: int, kept: int) -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask.flat[:pixels] = 1
    batch = batch_of([(SIZE, SIZE)])
    (answer,) = task(Grec).answer(logits_of([mask], batch), batch)
    assert decode(answer["mask"], SIZE, SIZE).sum() == kept
    assert bool(answer["score"]) == bool(kept)
    (plain,) = task(Res).answer(logits_of([mask], batch), batch)
    assert decode(plain["mask"], SIZE, SIZE).sum() == pixels
    # The same share of a larger image is more pixels: they are counted there, not on the square.
    larger = batch_of([(4 * SIZE, 4 * SIZE)])
    (many,) = task(Grec).answer(logits_of([np.kron(mask, np.ones((4, 4), np.uint8))], larger), larger)
    assert decode(many["mask"], 4 * SIZE, 4 * SIZE).sum() > 10 * FEWEST_PIXELS


# --- through the loader and the evaluation ----------------------------------------------------------------------------


class Oracle(torch.nn.Module):
    """Sees what is bright, and hears "left", "right" and "unicorn"; takes the grey of the padding for bright."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.number = {word: vocabulary.encode([word], 1)[0, 0] for word in ("left", "right", "unicorn")}

    def forward(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        logits = (images.mean(1) - 0.3) * 20
        half = logits.shape[-1] // 2
        for row, words in zip(logits, tokens.tolist(), strict=True):
            if self.number["unicorn"] in words:
                row[:] = -10
            elif self.number["left"] in words:
                row[:, half:] = -10
            elif self.number["right"] in words:
                row[:, :half] = -10
        return logits


def ready_with(kind: str, examples: Examples) -> Restored:
    vocabulary = Vocabulary.build(examples.texts(examples.rows))
    config = TrainConfig(DataConfig("unused", size=96, words=4, batch=6, threads=1), ModelConfig(task=kind))
    ready = TASKS[kind](config.model, vocabulary)
    return Restored(config, vocabulary, Oracle(vocabulary), ready, 0, torch.device("cpu"))  # type: ignore[arg-type]


def test_an_evaluation_of_groups(groups: Path) -> None:
    examples = Examples.open(groups, "expression", "val")
    metrics, answers = evaluate._score(ready_with("grec", examples), examples, None, progress=False)
    assert metrics == {"giou": 1, "ciou": 1, "n_acc": 1, "t_acc": 1}
    assert len(answers) == len(examples.rows) == 20
    assert {answer["iou"] for answer in answers} == {1}
    shuffled, _ = evaluate._score(ready_with("grec", examples), examples, "shuffled_words", progress=False)
    assert shuffled["giou"] < 0.7
    assert shuffled["n_acc"] < 1
    blank, _ = evaluate._score(ready_with("grec", examples), examples, "blank_pictures", progress=False)
    assert blank["giou"] < 0.7
    assert blank["t_acc"] == blank["n_acc"] == 1, "everything is bright, but for the unicorns"


def test_an_evaluation_of_single_referents(sets: dict[str, Path]) -> None:
    """The generator's images have a plain ground: an oracle that takes the whole square gets the areas' share."""
    examples = Examples.open(sets["refcoco"], "expression", "val")
    metrics, answers = evaluate._score(ready_with("res", examples), examples, "blank_pictures", progress=False)
    areas = [mask.sum() for mask in examples.masks(examples.rows)]
    whole = [answer for answer in answers if decode(answer["mask"], 64, 64).all()]
    assert metrics.keys() == {"miou", "oiou", *(f"pr@0.{digit}" for digit in "56789")}
    assert len(whole) > 5
    for answer in whole:
        place = examples.rows.tolist().index(answer["example"])
        assert answer["iou"] == pytest.approx(areas[place] / 64**2, abs=1e-4)


@pytest.mark.parametrize("kind", ["rec", "res"])
def test_sets_that_a_task_cannot_be_scored_on_are_refused(
    groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    ready = {name: ready_with(name, Examples.open(groups, "expression", "val")) for name in (kind, "grec")}
    monkeypatch.setattr(evaluate, "restore", lambda run, last: ready[run.name])
    with pytest.raises(ConfigError, match="4 of 20 expressions speak of no object"):
        evaluate.evaluate(tmp_path / kind, groups, "val", tmp_path / "out.json", progress=False)
    assert not (tmp_path / "out.json").exists()
    report = evaluate.evaluate(tmp_path / "grec", groups, "val", tmp_path / "out.json", progress=False)
    assert report is not None
    assert json.loads((tmp_path / "out.json").read_text()) == report
    assert (report["task"], report["examples"], report["giou"]) == ("grec", 20, 1)


def test_only_segmentation_wants_masks(sets: dict[str, Path]) -> None:
    assert {name for name, kind in TASKS.items() if kind.wants_masks} == {"res", "grec"}
    assert not Task.wants_masks
    unmasked = Examples.open(sets["visual_genome"], "expression", "train")
    TASKS["rec"].check(unmasked)
    TASKS["vqa"].check(Examples.open(sets["clevr"], "question", "train"))
    with pytest.raises(ConfigError, match="have no mask"):
        TASKS["res"].check(unmasked)
