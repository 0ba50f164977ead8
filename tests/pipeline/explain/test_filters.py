"""Where filters are looked at, and how much they differ from place to place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.explain.explanation import Block, Explanation
from laconvnet.pipeline.explain.filters import Place, at, places, spread
from laconvnet.pipeline.inference.answer import Answer, Box
from laconvnet.pipeline.model.blocks.laconv import Filters
from tests.messages import tells
from tests.pipeline.explain.asked import TEXT, asked, image


def answer(**found: Any) -> Answer:
    facts: dict[str, Any] = {"box": None, "mask": None, "answer": None, **found}
    return Answer("a", confidence=0.5, unknown=(), image=image(), **facts)


def test_they_are_looked_at_in_the_answer_s_middle_and_far_from_it() -> None:
    """The image is 90 x 60: the four pixels of the background are (11, 7), (78, 7), (11, 52) and (78, 52)."""
    ring = np.zeros((60, 90), bool)
    ring[10:21, 10:21] = True
    ring[12:19, 12:21] = False  # what is left is open to the right: its centre is none of its pixels
    for given, name, middle, background in (
        ({"box": Box(2, 40, 12, 50)}, "centre of the box", (7, 45), (78, 7)),
        ({"box": Box(90, 60, 90, 60)}, "centre of the box", (89, 59), (11, 7)),
        ({"mask": ring}, "centre of the mask", (11, 15), (78, 52)),
        ({"mask": np.zeros((60, 90), bool)}, "centre of the image", (45, 30), (11, 7)),
        ({"answer": "yes"}, "centre of the image", (45, 30), (11, 7)),
    ):
        first, second = places(answer(**given))
        assert (first.name, first.x, first.y) == (name, *middle)
        assert (second.name, second.x, second.y) == ("background", *background)
    assert ring[15, 11]


def test_they_are_looked_at_where_it_is_asked_for() -> None:
    assert places(answer(), ["0,0", "89,59"]) == (Place("asked for", 0, 0), Place("asked for", 89, 59))
    for wrong in ("90,0", "0,60", "-1,0", "1", "1,2,3", "1.5,2", "a,b", "", "9" * 5000 + ",1"):
        with pytest.raises(ConfigError) as caught:
            places(answer(), [wrong])
        assert tells(str(caught.value), "--at", wrong, "X,Y", "89,59")


def made(condition: np.ndarray[Any, Any], stage: int = 1, width: int = 40, height: int = 20) -> Explanation:
    """Of one block over a square of 64 pixels; its two filters of 1 x 1 are the condition and its double, + 1."""
    weight, bias = np.array([[1], [2]], np.float32), np.array([0, 1], np.float32)
    block = Block(stage, 1, np.ones((1, 1, 1, 1), np.float32), condition.astype(np.float32)[None], weight, bias, 2)
    letterbox = Letterbox.fit(np.array([width]), np.array([height]), 64)
    return Explanation(answer(), ("a",), (block,), letterbox)


def test_a_pixel_has_the_filters_of_its_cell() -> None:
    """40 x 20 pixels are 64 x 32 on the square, 16 from the top: pixel (25, 9) lies in row 31 and column 40."""
    condition = np.arange(64 * 64).reshape(64, 64)
    found = made(condition)
    expected = condition[31, 40]
    np.testing.assert_array_equal(at(found, found.blocks[0], Place("", 25, 9)), [[[expected]], [[2 * expected + 1]]])


def test_the_spread_is_the_share_of_the_mean_squares_that_is_variance() -> None:
    condition = np.random.default_rng(1).normal(2, 1, (8, 8))
    condition[:2], condition[6:] = 1e3, -1e3  # of the padding: 20 of 40 pixels fill rows 2 to 5 of 8
    seen = condition[2:6].ravel()
    both = [seen, 2 * seen + 1]
    expected = sum(one.var() for one in both) / sum((one**2).mean() for one in both)
    assert spread(made(condition)) == pytest.approx({1: expected}, rel=1e-5)
    assert spread(made(np.full((8, 8), 3.0))) == {1: 0.0}


def test_a_stage_has_the_mean_of_its_blocks() -> None:
    one, other = (made(np.random.default_rng(seed).normal(size=(8, 8)), stage=2) for seed in (1, 2))
    (first,), (second,) = spread(one).values(), spread(other).values()
    both = replace(one, blocks=(*one.blocks, *other.blocks))
    assert spread(both) == pytest.approx({2: (first + second) / 2})
    nothing = replace(one.blocks[0], weight=np.zeros((2, 1), np.float32), bias=np.zeros(2, np.float32))
    assert spread(replace(one, blocks=(nothing,))) == {2: 0.0}


def test_it_is_that_of_the_model_s_own_filters() -> None:
    """Filters by the projection of the module, at every pixel of a square image, which has no padding."""
    predictor, model = asked()
    found = predictor.explain(image(64, 64), TEXT)
    modules = [module for module in model.modules() if isinstance(module, Filters)]
    for block, module in zip(found.blocks, modules, strict=True):
        condition = torch.from_numpy(block.condition).double()
        with torch.no_grad():
            taps = torch.einsum("tc,chw->thw", module.weight.double(), condition) + module.bias[:, None, None]
        share = taps.flatten(1).var(1, correction=0).sum() / taps.square().flatten(1).mean(1).sum()
        assert spread(found)[block.stage] == pytest.approx(float(share), rel=1e-4)
