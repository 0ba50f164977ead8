"""The papers' own numbers: what a reimplementation must meet before it is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import Model, ModelConfig, build_model
from laconvnet.pipeline.model.cost import cost

WORDS = 1000


def make(preset: str = "s", **options: Any) -> Model:
    with torch.device("meta"):
        return build_model(ModelConfig(preset=preset, **options), WORDS, answers=28)


@pytest.mark.parametrize(
    ("preset", "size", "giga"),
    [("s", 416, 8.87), ("b", 416, 14.46), ("s", 320, 5.29), ("b", 320, 8.61)],  # v2 Tab. 2, Tab. 5
)
def test_rec_multiply_adds(preset: str, size: int, giga: float) -> None:
    assert cost(make(preset), size)["macs"] / 1e9 == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize(
    ("preset", "task", "giga"),
    [
        ("s_released", "rec", 8.49),  # v2 Tab. 2
        ("b_released", "rec", 14.54),
        ("s_released", "res", 9.51),  # v2 Tab. 4
        ("b_released", "res", 15.56),
    ],
)
def test_multiply_adds_of_the_released_models(preset: str, task: str, giga: float) -> None:
    """Tab. 4 has one neck where the released segmentation model has two: the first, way up included."""
    found = cost(make(preset, task=task), 416)
    second = sum(row["macs"] for row in found["layers"] if row["layer"].startswith("head.second_neck"))
    assert (found["macs"] - second) / 1e9 == pytest.approx(giga, rel=0.01)
    assert second / 1e9 == pytest.approx(0.97 if task == "res" else 0, abs=0.005)


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
    """With the attentive pool that nothing there reads; the paper's presets have none."""
    language = make("s_released").language
    assert sum(p.numel() for n, p in language.named_parameters() if not n.startswith("embedding.")) == 4_796_929
    assert sum(p.numel() for p in language.pool.parameters()) == 394_241
    assert not any(
        "pool" in name for preset in ("tiny", "19", "s", "b") for name, _ in make(preset).language.named_parameters()
    )


@pytest.mark.parametrize(
    ("preset", "task", "params"),
    [
        ("s_released", "rec", 21_629_554),
        ("b_released", "rec", 33_266_686),
        ("s_released", "res", 21_821_678),
        ("b_released", "res", 33_458_810),
    ],
)
def test_parameters_of_the_released_models(preset: str, task: str, params: int) -> None:
    model = make(preset, task=task)
    words = model.language.embedding.weight.numel()
    assert sum(parameter.numel() for parameter in model.parameters()) - words == params


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


@pytest.mark.parametrize(
    ("block", "mega", "giga"),
    [
        ("film", 30.45, 9.67),  # v2 Tab. 11: 30.4 M, 9.8 G
        ("qghc", 49.7, 6.80),  # v2 Tab. 11: 55.7 M, 6.8 G; what its parameters were is not recovered
    ],
)
def test_peers_of_the_block(block: str, mega: float, giga: float) -> None:
    """Parameters on top of the table's own LaConv row, 23.1 M: how many words it counts is not known."""
    network, peer = cost(make(), 416), cost(make(block=block), 416)
    assert 23.1 + (peer["params"] - network["params"]) / 1e6 == pytest.approx(mega, rel=0.01)
    assert peer["macs"] / 1e9 == pytest.approx(giga, rel=0.01)


def test_base_of_the_first_version() -> None:
    """Without generators LaConvNet-10 keeps its convolutions and MLPs (v1 Tab. 4a, which gives no size for it)."""
    visual = cost(make("10", block="group_conv"), 224)["parts"]["visual"]
    assert (visual["params"], visual["macs"]) == (4_693_452, 932_696_576)
