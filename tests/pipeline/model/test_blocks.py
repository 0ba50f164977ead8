"""The peers of the LaConv block against slow transcriptions, and what every block promises."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import LaConvNet, ModelConfig, build_model
from laconvnet.pipeline.model.blocks import BLOCKS, BlockConfig
from laconvnet.pipeline.model.blocks.film import FilmBlock
from laconvnet.pipeline.model.blocks.group_conv import GroupConvBlock
from laconvnet.pipeline.model.blocks.qghc import QghcBlock
from laconvnet.pipeline.model.draws import Dropout
from laconvnet.pipeline.model.norm import BatchNorm

CONFIG = BlockConfig(
    dim=8, condition=8, groups=2, packing=2, kernel_size=3, words=5, heads=2, affinity_dropout=0.0, filter_dropout=0.0
)
RELEASED = replace(CONFIG, kernel_size=5, activation="silu", output_activation=True, interleaved=True)
LISTENING = [name for name in BLOCKS if name != "group_conv"]


def block(name: str, config: BlockConfig = CONFIG) -> Any:
    torch.manual_seed(2)
    made = BLOCKS[name](config).double().eval()
    for key, parameter in made.named_parameters():
        if "norm" in key:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return made


def inputs(config: BlockConfig = CONFIG, height: int = 4, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(2, config.dim, height, width, dtype=torch.float64)
    words = torch.randn(2, 4, config.words, dtype=torch.float64)
    return x, words, torch.tensor([[True] * 4, [True, False, True, False]])


class Literal:
    """One image, pixel by pixel, by the formulas; running statistics are 0 and 1."""

    def __init__(self, made: nn.Module, config: BlockConfig) -> None:
        self.p = {name: value.detach() for name, value in made.named_parameters()}
        self.config = config
        self.act = F.relu if config.activation == "relu" else F.silu

    def norm(self, name: str, column: Tensor) -> Tensor:
        return column / math.sqrt(1 + 1e-5) * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def linear(self, name: str, column: Tensor) -> Tensor:
        return self.p[f"{name}.weight"].flatten(1) @ column

    def conv(self, x: Tensor, kernels: Tensor, group_of_output: list[int]) -> Tensor:
        """kernels (outputs, inputs of a group, k, k); output channel o reads the channels of its group."""
        outputs, inside, k, _ = kernels.shape
        _, height, width = x.shape
        out = torch.zeros(outputs, height, width, dtype=x.dtype)
        for o in range(outputs):
            first = group_of_output[o] * inside
            for i in range(height):
                for j in range(width):
                    for di in range(k):
                        for dj in range(k):
                            y, z = i + di - k // 2, j + dj - k // 2
                            if 0 <= y < height and 0 <= z < width:
                                out[o, i, j] += kernels[o, :, di, dj] @ x[first : first + inside, y, z]
        return out

    def block(self, x: Tensor, convolved: Tensor, scale: Tensor | float = 0.0, shift: Tensor | float = 0.0) -> Tensor:
        """y = act(x + BN(convolved)), y + MLP(y)."""
        out = torch.zeros_like(x)
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                y = self.act(x[:, i, j] + self.norm("norm", convolved[:, i, j]))
                hidden = self.norm("mlp.expand_norm", self.linear("mlp.expand", y))
                hidden = self.act((1 + scale) * hidden + shift)
                y = y + self.norm("mlp.reduce_norm", self.linear("mlp.reduce", hidden))
                out[:, i, j] = self.act(y) if self.config.output_activation else y
        return out

    def sentence(self, words: Tensor, mask: Tensor) -> Tensor:
        real = [word for word, here in zip(words, mask, strict=True) if here]
        return torch.stack(real).sum(0) / len(real)

    def film(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        d = self.config.dim
        made = self.linear("generator", self.sentence(words, mask)) + self.p["generator.bias"]
        convolved = self.conv(x, self.p["conv.weight"], [0] * d)
        return self.block(x, convolved, scale=made[: 4 * d], shift=made[4 * d :])

    def qghc(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        width, groups = self.config.dim // 2, self.config.groups
        inside = width // groups
        made = self.linear("hybrid.generator", self.sentence(words, mask)) + self.p["hybrid.generator.bias"]
        predicted = made.view(width // 2, inside, 3, 3)
        narrow = torch.zeros(width, *x.shape[1:], dtype=x.dtype)
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                narrow[:, i, j] = self.act(self.norm("reduce.norm", self.linear("reduce.conv", x[:, i, j])))
        kernels = torch.cat([predicted, self.p["hybrid.weight"]])
        hybrid = self.conv(narrow, kernels, [o // inside for o in range(width)])
        shuffled = torch.stack([hybrid[group * inside + place] for place in range(inside) for group in range(groups)])
        convolved = torch.zeros_like(x)
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                column = self.act(self.norm("hybrid_norm", shuffled[:, i, j]))
                convolved[:, i, j] = self.linear("expand", column)
        return self.block(x, convolved)

    def group_conv(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        d, g = self.config.dim, self.config.groups
        group = [c % g if self.config.interleaved else c // (d // g) for c in range(d)]
        kernels = torch.stack([self.p["filters"][group[c]] for c in range(d)])[:, None]
        return self.block(x, self.conv(x, kernels, list(range(d))))


@pytest.mark.parametrize("config", [CONFIG, RELEASED], ids=["paper", "released"])
@pytest.mark.parametrize("name", ["film", "qghc", "group_conv"])
def test_equals_the_formulas(name: str, config: BlockConfig) -> None:
    made = block(name, config)
    x, words, mask = inputs(config, 3, 4)
    out = made(x, words, mask)
    for image in range(2):
        expected = getattr(Literal(made, config), name)(x[image], words[image], mask[image])
        torch.testing.assert_close(out[image], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_are_those_of_finite_differences(name: str, packed: bool, training: bool) -> None:
    """A whole block in float64: image, words and every parameter, with batch statistics and dropout in training."""
    config = replace(CONFIG, dim=4, condition=4, words=3, activation="silu", affinity_dropout=0.2, filter_dropout=0.2)
    made = block(name, config).train(training)
    x, words, mask = inputs(config, 2, 4)
    for module in made.modules():
        if isinstance(module, BatchNorm):
            module.as_on_gpu = packed
        elif isinstance(module, Dropout):
            module.keys = torch.arange(len(x))
    chosen = dict(made.named_parameters())

    def forward(x: Tensor, words: Tensor, *parameters: Tensor) -> Tensor:
        by_name = dict(zip(chosen, parameters, strict=True))
        out: Tensor = torch.func.functional_call(made, by_name, (x, words, mask), strict=False)
        return out

    free = [value.detach().clone().requires_grad_() for value in (x, words, *chosen.values())]
    assert torch.autograd.gradcheck(forward, free, fast_mode=True)


@pytest.mark.parametrize("name", BLOCKS)
def test_gradient_reaches_every_parameter(name: str) -> None:
    made = block(name).train()
    made(*inputs()).square().sum().backward()
    assert [key for key, p in made.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


@pytest.mark.parametrize("name", BLOCKS)
def test_pad_words_change_nothing(name: str) -> None:
    made = block(name)
    x, words, mask = inputs()
    expected = made(x, words, mask)
    changed = torch.where(mask[:, :, None], words, 1e3)
    torch.testing.assert_close(made(x, changed, mask), expected)
    longer = torch.cat([changed, torch.full_like(words, -7.0)], 1)
    torch.testing.assert_close(made(x, longer, torch.cat([mask, torch.zeros_like(mask)], 1)), expected)
    assert made(x, words, torch.zeros_like(mask)).isfinite().all()


@pytest.mark.parametrize("name", LISTENING)
def test_each_image_hears_its_own_words(name: str) -> None:
    made = block(name)
    x, words, mask = inputs()
    other = words.clone()
    other[1, 0] += 1
    before, after = made(x, words, mask), made(x, other, mask)
    assert torch.equal(before[0], after[0])
    assert (before[1] - after[1]).abs().max() > 1e-3


def test_group_conv_is_deaf() -> None:
    made = block("group_conv")
    x, words, mask = inputs()
    assert torch.equal(made(x, words, mask), made(x, torch.full_like(words, math.nan), ~mask))


def test_qghc_predicts_the_first_half_of_the_groups() -> None:
    """With silent words the first groups see nothing, the others what their learned kernels make of the image."""
    made: QghcBlock = block("qghc", replace(CONFIG, dim=16, groups=4))
    nn.init.zeros_(made.hybrid.generator.weight)
    nn.init.zeros_(made.hybrid.generator.bias)
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    out = made.hybrid(x, torch.randn(1, 5, dtype=torch.float64))
    by_group = out.view(2, 4, 4, 4).transpose(0, 1)  # the shuffle undone: (groups, channels of a group, H, W)
    assert by_group[:2].abs().max() == 0
    expected = F.conv2d(x[:, 4:], made.hybrid.weight, padding=1, groups=2)
    torch.testing.assert_close(by_group[2:].reshape(1, 4, 4, 4), expected)


@pytest.mark.parametrize("preset", ["tiny", "s_released"])
@pytest.mark.parametrize("name", BLOCKS)
def test_every_preset_can_be_made_of_it(name: str, preset: str) -> None:
    net = ModelConfig(preset=preset, block=name).net()
    with torch.device("meta"):
        visual = LaConvNet(net).eval()
        maps = visual(torch.empty(1, 3, 32, 32), torch.empty(1, 3, net.words), torch.ones(1, 3, dtype=torch.bool))
    assert [tuple(x.shape) for x in maps] == [(1, d, 16 // 2**i, 16 // 2**i) for i, d in enumerate(net.dims)]
    blocks = [made for stage in visual.stages for made in stage.get_submodule("blocks").children()]
    assert len(blocks) == sum(net.depths)
    assert {type(made) for made in blocks} == {BLOCKS[name]}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FilmBlock, 9 * 64**2 + 2 * 64 + (512 * 512 + 512) + (8 * 64**2 + 10 * 64)),
        (
            QghcBlock,
            (2 * 32 * 64 + 2 * (32 + 32 + 64) - 2 * 64) + (513 * 16 * 8 * 9 + 16 * 8 * 9) + 2 * 64
            + (8 * 64**2 + 10 * 64),
        ),
        (GroupConvBlock, 4 * 49 + 2 * 64 + (8 * 64**2 + 10 * 64)),
    ],
)  # fmt: skip
def test_parameters_follow_the_formula(kind: type[nn.Module], expected: int) -> None:
    with torch.device("meta"):
        made = kind(BlockConfig(dim=64, condition=128, groups=4, packing=4, kernel_size=7, words=512))
    assert sum(p.numel() for p in made.parameters()) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig(block="conv"), r"^model\.block: .* laconv film qghc group_conv, got 'conv'$"),
        (ModelConfig(block="film", packing=(8, 4, 2, 1, 1)), r"^model\.packing: means nothing to block film; leave it"),
        *(
            (ModelConfig(block=block, conditions=(64, 128, 128, 256, 512)), rf"^model\.conditions: .* block {block};")
            for block in ("film", "qghc", "group_conv")
        ),
        (ModelConfig(block="film", kernel_size=3), r"^model\.kernel_size: means nothing to block film"),
        (ModelConfig(block="qghc", generator="words"), r"^model\.generator: means nothing to block qghc"),
        (ModelConfig(block="group_conv", packing=(1, 1, 1, 1, 1)), r"^model\.packing: means nothing to block group"),
    ],
)
def test_what_a_block_cannot_use_is_refused(config: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.check()
    ModelConfig(block="film", filter_dropout=0.0, affinity_dropout=0.1).check()  # a recipe's, not an ablation


@pytest.mark.parametrize("groups", [1, 16])  # cannot be halved; as many as the first stage has channels
def test_qghc_names_groups_that_do_not_fit(groups: int) -> None:
    config = ModelConfig(block="qghc", groups=(groups, 4, 4, 4, 4))
    with torch.device("meta"), pytest.raises(ConfigError, match=rf"^model\.groups: block qghc .* got {groups}$"):
        build_model(config, 10)
