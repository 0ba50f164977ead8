"""The model from end to end, at the size of the `tiny` preset."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import HeadsConfig, LanguageConfig, Model, ModelConfig, build_model
from laconvnet.pipeline.model.blocks import BLOCKS
from laconvnet.pipeline.model.heads.anchors import AnchorHeadConfig
from laconvnet.pipeline.model.net import PRESETS

REC = ModelConfig(preset="tiny", heads=HeadsConfig(anchors=AnchorHeadConfig(stride=8, sizes=((12, 12), (20, 20)))))
VQA = ModelConfig(preset="tiny", task="vqa")


def make(config: ModelConfig, vectors: Tensor | None = None) -> Model:
    torch.manual_seed(0)
    return build_model(config, vocabulary_size=30, answers=7, vectors=vectors)


def batch(size: int = 64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    tokens = torch.tensor([[5, 6, 7, 8, 0, 0], [9, 4, 0, 0, 0, 0], [3, 3, 4, 5, 6, 7]])
    return torch.rand(3, 3, size, size), tokens


@pytest.mark.parametrize(("stride", "cells"), [(8, 8), (16, 4), (32, 2)])
def test_rec_output(stride: int, cells: int) -> None:
    model = make(replace(REC, heads=HeadsConfig(anchors=replace(REC.heads.anchors, stride=stride))))
    out = model(*batch())
    assert out.shape == (3, 2, 5, cells, cells)
    # An untrained head expects the referent in hardly any cell.
    assert torch.sigmoid(model.eval()(*batch())[:, :, 4]).mean() < 0.1


def test_stage_maps_and_vqa_output() -> None:
    model = make(VQA)
    words, mask = model.language(batch()[1])
    maps = model.visual(batch()[0], words, mask)
    assert [tuple(m.shape) for m in maps] == [
        (3, d, 32 // 2**i, 32 // 2**i) for i, d in enumerate(PRESETS["tiny"].dims)
    ]
    assert model(*batch()).shape == (3, 7)


@pytest.mark.parametrize("config", [REC, VQA, replace(REC, preset="tiny", generator="words")])
def test_gradient_reaches_every_trainable_parameter(config: ModelConfig) -> None:
    model = make(config)
    model(*batch()).square().sum().backward()
    # A softmax does not feel a number that is added to all of its scores.
    felt = [(n, p) for n, p in model.named_parameters() if p.requires_grad and not n.endswith("score.3.bias")]
    assert [n for n, p in felt if p.grad is None or p.grad.abs().max() == 0] == []


@pytest.mark.parametrize("config", [REC, VQA, replace(REC, generator="words")])
def test_pad_words_change_nothing(config: ModelConfig) -> None:
    model = make(config).eval()
    images, tokens = batch()
    longer = torch.cat([tokens, torch.zeros(3, 4, dtype=torch.int64)], 1)
    with torch.no_grad():
        model.language.embedding.weight[0] = 100.0
        torch.testing.assert_close(model(images, longer), model(images, tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [REC, VQA])
def test_an_expression_without_words_is_finite(config: ModelConfig) -> None:
    model = make(config)
    images, tokens = batch()
    tokens[1] = 0
    out = model(images, tokens)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("config", [REC, VQA])
def test_a_permuted_batch_gives_permuted_outputs(config: ModelConfig) -> None:
    images, tokens = batch()
    order = torch.tensor([2, 0, 1])
    model = make(config).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images[order], tokens[order]), model(images, tokens)[order])


def test_words_matter_to_every_stage() -> None:
    model = make(REC).eval()
    images, tokens = batch()
    with torch.no_grad():
        one, other = (model.visual(images, *model.language(t)) for t in (tokens, tokens.flip(0)))
    assert all((a - b).abs().amax((1, 2, 3))[0] > 0 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("config", [REC, VQA])
def test_bfloat16_autocast_stays_near(config: ModelConfig) -> None:
    model = make(config).eval()
    with torch.no_grad():
        exact = model(*batch())
        with torch.autocast("cpu", torch.bfloat16):
            near = model(*batch())
    assert near.isfinite().all()
    assert (near.float() - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("config", [REC, VQA])
def test_cast_to_bfloat16_stays_near(config: ModelConfig) -> None:
    model = make(config).eval()
    with torch.no_grad():
        exact = model(*batch())
        model.bfloat16()
        near = model(batch()[0].bfloat16(), batch()[1])
    assert near.dtype == torch.bfloat16
    assert (near.float() - exact).norm() / exact.norm() < 0.05


def test_frozen_vectors_are_no_trainable_parameter() -> None:
    vectors = torch.randn(30, 20)
    model = make(REC, vectors)
    weight = model.language.embedding.weight
    assert isinstance(weight, nn.Parameter)
    assert not weight.requires_grad
    assert torch.equal(weight, vectors)
    assert weight.data_ptr() != vectors.data_ptr()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert "language.embedding.weight" not in trained
    assert make(REC).language.embedding.weight.requires_grad
    # Weights saved without the vectors restore the rest and leave the vectors alone.
    weights = {n: torch.zeros_like(p) for n, p in trained.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert unexpected == []
    assert not set(missing) & set(trained)
    assert torch.equal(model.language.embedding.weight, vectors)


def test_language_and_visual_do_not_depend_on_the_task() -> None:
    rec, vqa = make(REC).state_dict(), make(VQA).state_dict()
    assert {name.split(".")[0] for name in rec} == {"language", "visual", "head"}
    shared = [{n: v.shape for n, v in state.items() if not n.startswith("head.")} for state in (rec, vqa)]
    assert shared[0] == shared[1]


def test_language_follows_the_preset_and_yields_to_the_config() -> None:
    def language(**options: object) -> tuple[str, int, int, int]:
        with torch.device("meta"):
            made = build_model(ModelConfig(**options), 10).language  # type: ignore[arg-type]
        return made.rnn.mode, made.rnn.input_size, made.rnn.hidden_size, len(made.attention)

    assert language(preset="tiny") == ("LSTM", 128, 128, 1)
    assert language(preset="19") == ("LSTM", 300, 512, 3)
    assert language(preset="s_released") == ("GRU", 300, 512, 1)
    assert language(preset="tiny", language=LanguageConfig(50, 64, 2, "gru")) == ("GRU", 50, 64, 2)


@pytest.mark.parametrize(
    ("key", "value", "config"),
    [
        ("model.preset", "'xl'", ModelConfig(preset="xl")),
        ("model.groups", "3", replace(REC, groups=(4, 4, 3, 8, 8))),
        ("model.packing", "2", replace(REC, packing=(8, 4, 2, 1, 2))),
        ("model.conditions", "0", replace(REC, conditions=(64, 0, 64, 96, 128))),
        ("model.conditions", "-4", replace(REC, conditions=(-4, 64, 64, 96, 128))),
        ("model.conditions", "66", replace(REC, conditions=(64, 64, 64, 96, 66))),  # of 4 heads
        ("model.kernel_size", "4", replace(REC, kernel_size=4)),
        ("model.heads.anchors.stride", "4", replace(REC, heads=HeadsConfig(anchors=AnchorHeadConfig(stride=4)))),  # type: ignore[arg-type]
        ("model.heads.anchors.sizes", "none", replace(REC, heads=HeadsConfig(anchors=AnchorHeadConfig(sizes=())))),
        ("model.language.heads", "7", replace(REC, language=LanguageConfig(heads=7))),
        ("model.task", "'res2'", replace(REC, task="res2")),
    ],
)
def test_a_config_that_cannot_be_built_is_named(key: str, value: str, config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: ") as error:
        make(config)
    assert value in str(error.value)


def test_conditions_widen_the_generators_and_nothing_else() -> None:
    plain = make(REC).state_dict()
    wide = make(replace(REC, conditions=(64, 64, 64, 96, 128))).state_dict()
    assert plain.keys() == wide.keys()
    changed = {name.rpartition(".")[0] for name in plain if plain[name].shape != wide[name].shape}
    parts = ("generator.affinity.query", "generator.affinity.key", "generator.affinity.value", "generator.merge")
    blocks = [f"visual.stages.{stage}.blocks.0" for stage in (0, 1)]  # the others are so wide already
    assert changed == {f"{block}.{part}" for block in blocks for part in (*parts, "generator.norm", "filters")}
    assert [len(wide[f"{block}.generator.merge.weight"]) for block in blocks] == [64 * 8**2, 64 * 4**2]


def test_other_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"answers: .* got 0"):
        build_model(VQA, 30)
    with pytest.raises(ConfigError, match=r"vectors: expected \(30, 20\).*got \(29, 20\)"):
        make(REC, torch.zeros(29, 20))
    with pytest.raises(ConfigError, match=r"size: .*32, got 64 x 48"):
        make(REC)(torch.zeros(1, 3, 64, 48), torch.ones(1, 2, dtype=torch.int64))


def test_the_example_of_the_documentation_is_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "extending.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, type[nn.Module]] = {}
    exec(example, names)
    monkeypatch.setitem(BLOCKS, "depthwise", names["DepthwiseBlock"])
    model = make(replace(REC, block="depthwise"))
    model(*batch()).square().sum().backward()
    block = model.get_submodule("visual.stages.4.blocks.0")
    assert type(block) is names["DepthwiseBlock"]
    assert all(parameter.grad is not None for parameter in block.parameters())
