"""Every layer that drops has keys of its own, which say all about its masks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laconvnet import kernels
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import LanguageConfig, Model, ModelConfig, build_model
from laconvnet.pipeline.model.blocks import BLOCKS
from laconvnet.pipeline.model.draws import VERSION, Draws, Dropout
from laconvnet.pipeline.model.heads import TASKS, HeadsConfig
from laconvnet.pipeline.model.heads.answers import AnswerHeadConfig
from laconvnet.pipeline.model.net import BlockStage

CPU = torch.device("cpu")
TOKENS = torch.tensor([[2, 3, 4, 5], [6, 7, 0, 0], [3, 3, 3, 0], [9, 8, 7, 6]])


def make(**keys: Any) -> Model:
    torch.manual_seed(0)
    return build_model(ModelConfig("tiny", filter_dropout=0.2, **keys), 10, answers=3).train()


def layers_of(model: nn.Module) -> dict[str, Dropout]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Dropout)}


def words_at(model: Model, step: int, places: list[int], seed: int = 1) -> Tensor:
    """The word features of the tokens of these places, in training."""
    with Draws(model, seed).of(step, torch.tensor(places), CPU):
        words: Tensor = model.language(TOKENS[places])[0].detach()
    return words


def test_every_layer_is_given_the_keys_of_its_own_name() -> None:
    model = make(task="vqa")
    layers, places = layers_of(model), torch.tensor([4, 5, 9])
    assert {name.split(".")[0] for name in layers} == {"language", "visual", "head"}
    assert {"visual.stages.0.blocks.0.filters.dropout", "language.attention.0.ffn_dropout"} <= layers.keys()
    with Draws(model, 3).of(7, places, CPU):
        given = {name: layer.keys for name, layer in layers.items()}
    for name, keys in given.items():
        assert keys is not None
        assert torch.equal(keys, kernels.image_keys(3, 7, places, [name])[0]), name
    values = [key for keys in given.values() if keys is not None for key in keys.tolist()]
    assert len(set(values)) == len(layers) * len(places)
    assert all(layer.keys is None for layer in layers.values()), "those of a batch that is over"


def test_keys_are_where_the_model_is() -> None:
    model = make()
    with Draws(model, 3).of(7, torch.arange(2), torch.device("meta")):
        assert {layer.keys.device.type for layer in layers_of(model).values() if layer.keys is not None} == {"meta"}


def test_keys_are_taken_back_after_an_error() -> None:
    model = make()
    with pytest.raises(RuntimeError, match="amid"), Draws(model, 0).of(0, torch.arange(2), CPU):
        raise RuntimeError("amid a step")
    assert all(layer.keys is None for layer in layers_of(model).values())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("block", BLOCKS)
def test_nothing_drops_in_another_way_or_twice(task: str, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is called twice would drop the same both times; PyTorch's would draw by the process."""
    torch.manual_seed(0)
    model = build_model(ModelConfig("tiny", task=task, block=block), 10, answers=3).train()
    assert not any("dropout" in type(m).__module__ for m in model.modules() if not isinstance(m, Dropout))
    calls: Counter[int] = Counter()
    draw = Dropout.draw

    def counted(self: Dropout, values: Tensor) -> tuple[float, Tensor | None]:
        calls[id(self)] += 1
        assert len(values) == 2, "the first dimension is that of the examples"
        return draw(self, values)

    monkeypatch.setattr(Dropout, "draw", counted)
    state = torch.get_rng_state()
    with Draws(model, 0).of(0, torch.arange(2), CPU):
        model(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), TOKENS[:2])
    assert torch.equal(torch.get_rng_state(), state), "something draws from PyTorch's random state"
    assert calls
    assert set(calls.values()) == {1}


def test_an_example_is_dropped_by_its_place_whoever_is_beside_it() -> None:
    model = make()
    whole = words_at(model, 5, [0, 1, 2, 3])
    for part in ([0, 1], [2, 3], [3], [1, 3]):
        torch.testing.assert_close(words_at(model, 5, part), whole[part])


def test_another_step_seed_place_or_layer_drops_otherwise() -> None:
    """Without any of them in the key one of these would be the same."""
    model = make()
    first = words_at(model, 5, [0, 1, 2, 3])
    assert not torch.allclose(first, words_at(model, 6, [0, 1, 2, 3]))
    assert not torch.allclose(first, words_at(model, 5, [0, 1, 2, 3], seed=2))
    with Draws(model, 1).of(5, torch.arange(2), CPU):
        masks = {name: layer(torch.ones(2, 50)).tolist() for name, layer in layers_of(model).items()}
    assert all(one != other for one, other in masks.values()), "two examples"
    assert len({str(mask) for mask in masks.values()}) == len(masks), "two layers"


def test_what_is_computed_again_is_dropped_alike() -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found: list[dict[str, Tensor]] = []
    for recompute in (False, True):
        model = make()
        for stage in model.visual.modules():
            if isinstance(stage, BlockStage):
                stage.recompute = recompute
        with Draws(model, 1).of(3, torch.arange(2), CPU):
            model(images, TOKENS[:2]).square().mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_without_keys_a_model_in_training_draws_from_the_random_state() -> None:
    model = make()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model.language(TOKENS)[0].detach())
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    state = torch.get_rng_state()
    model.eval()
    assert torch.equal(model.language(TOKENS)[0], model.language(TOKENS)[0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("model.filter_dropout", {"filter_dropout": 0.001}),
        ("model.affinity_dropout", {"affinity_dropout": 1.0}),
        ("model.language.dropout", {"language": LanguageConfig(dropout=-0.1)}),
        ("model.heads.answers.dropout", {"task": "vqa", "heads": HeadsConfig(answers=AnswerHeadConfig(dropout=0.999))}),
    ],
)
def test_a_probability_that_the_rule_does_not_take_is_named(key: str, keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: .*1/256"):
        build_model(ModelConfig("tiny", **keys), 10, answers=3)


@pytest.mark.parametrize("p", [-0.1, 0.001, 0.999, 1.0])
def test_a_layer_of_such_a_probability_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="1/256"):
        Dropout(p)


def test_a_layer_of_probability_0_and_one_in_evaluation_draw_nothing() -> None:
    values, keys = torch.ones(2, 50), torch.tensor([1, 2])
    for layer in (Dropout(0.0), Dropout(0.5).eval()):
        layer.keys = keys
        assert layer.draw(values) == (0.0, None)
    layer = Dropout(0.5)
    layer.keys = keys
    p, given = layer.draw(values)
    assert p == 0.5
    assert given is keys


def test_the_rule_has_the_number_that_checkpoints_know_it_by() -> None:
    """Other keys are another rule: a run that resumes under it is told so by the number."""
    keys = kernels.image_keys(3, 7, torch.tensor([4, 5]), ["language.dropout", "visual"])
    assert (VERSION, keys.tolist()) == (
        2,
        [[6534695237870086307, -7318145182588981318], [2276125484011435947, 3794345731801818946]],
    )
