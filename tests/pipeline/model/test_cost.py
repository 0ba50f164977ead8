"""The papers' own numbers: what a reimplementation must meet before it is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.model import Model, ModelConfig, build_model
from pipeline.model.cost import cost
from pipeline.model.heads.answers import AttentivePool

WORDS = 1000


def make(preset: str = "s", **given: Any) -> Model:
    with torch.device("meta"):
        return build_model(ModelConfig(preset=preset, **given), WORDS, answers=28)


@pytest.mark.parametrize(
    ("preset", "size", "giga"),
    [("s", 416, 8.87), ("b", 416, 14.46), ("s", 320, 5.29), ("b", 320, 8.61)],  # v2 Tab. 2, Tab. 5
)
def test_rec_multiply_adds(preset: str, size: int, giga: float) -> None:
    assert cost(make(preset), size)["macs"] / 1e9 == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize(("preset", "giga"), [("s_released", 1.88), ("b_released", 3.66)])  # v2 Tab. 7, CLEVR
def test_clevr_multiply_adds_without_head(preset: str, giga: float) -> None:
    parts = cost(make(preset, task="vqa"), 224)["parts"]
    assert (parts["visual"]["macs"] + parts["language"]["macs"]) / 1e9 == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize(
    ("preset", "mega", "giga"),
    [("10", 10.11, 1.68), ("15", 16.12, 2.56), ("19", 21.73, 3.32)],  # v1 Tab. 4
)
def test_visual_network_of_the_first_version(preset: str, mega: float, giga: float) -> None:
    visual = cost(make(preset), 224)["parts"]["visual"]
    assert visual["params"] / 1e6 == pytest.approx(mega, abs=0.005)
    assert visual["macs"] / 1e9 == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize(("preset", "params"), [("s_released", 10_631_788), ("b_released", 22_268_920)])
def test_visual_parameters_of_the_released_code(preset: str, params: int) -> None:
    assert cost(make(preset), 224)["parts"]["visual"]["params"] == params


def test_language_parameters_of_the_released_code() -> None:
    """The released encoder also holds an attentive pool that nothing reads; ours leaves pooling to the VQA head."""
    language = make("s_released").language
    encoder = sum(p.numel() for n, p in language.named_parameters() if not n.startswith("embedding."))
    unread = sum(p.numel() for p in AttentivePool(512, 256, 512).parameters())
    assert encoder + unread == 4_796_929


@pytest.mark.parametrize(
    ("change", "giga", "mega"),  # v2 Tab. 10, against LaConvNet-S at 416
    [
        ({"groups": (1, 1, 1, 1, 1)}, -0.89, -0.84),
        ({"kernel_size": 3}, -0.81, -0.76),
        ({"packing": (1, 1, 1, 1, 1)}, 0.22, -1.22),
        ({"generator": "words"}, -2.47, -3.67),
    ],
)
def test_ablations(change: dict[str, Any], giga: float, mega: float) -> None:
    full, changed = cost(make(), 416), cost(make(**change), 416)
    assert (changed["macs"] - full["macs"]) / 1e9 == pytest.approx(giga, abs=0.005)
    assert (changed["params"] - full["params"]) / 1e6 == pytest.approx(mega, abs=0.005)


def test_parts_and_words_add_up() -> None:
    found = cost(make(task="vqa"), 224)
    assert found["params"] == sum(p.numel() for p in make(task="vqa").parameters())
    assert found["params"] - found["params_without_words"] == 300 * WORDS
    for what in ("params", "macs"):
        assert found[what] == sum(part[what] for part in found["parts"].values())


def test_the_model_and_the_random_state_are_left_alone() -> None:
    model = build_model(ModelConfig(preset="tiny", filter_dropout=0.5), 10).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    cost(model, 64)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_size_must_divide_by_32() -> None:
    with pytest.raises(ConfigError, match=r"size: .* got 100 x 100"):
        cost(make("tiny"), 100)
