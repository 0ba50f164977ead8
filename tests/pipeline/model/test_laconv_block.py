"""The LaConv block against a slow transcription of the paper, and the properties its parts promise."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.kernels.attention import masked_softmax
from laconvnet.pipeline.model.blocks.base import BlockConfig
from laconvnet.pipeline.model.blocks.laconv import Affinity, ConditionGenerator, LaConvBlock
from laconvnet.pipeline.model.layers import position_code
from laconvnet.pipeline.model.net import PRESETS

CONFIG = BlockConfig(dim=8, condition=12, groups=2, packing=2, kernel_size=3, words=10, heads=3)


def inputs(config: BlockConfig = CONFIG, side: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(2, config.dim, side, side, dtype=torch.float64)
    words = torch.randn(2, 5, config.words, dtype=torch.float64)
    return x, words, torch.tensor([[True] * 5, [True] * 2 + [False] * 3])


def block(config: BlockConfig = CONFIG) -> LaConvBlock:
    torch.manual_seed(2)
    made = LaConvBlock(config).double().eval()
    for name, parameter in made.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return made


def literal(made: LaConvBlock, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    """v2 Eq. 1-6 pixel by pixel for one image: x (d, H, W), words (L, D), mask (L,)."""
    config, p = made.config, {name: value.detach() for name, value in made.named_parameters()}
    d, height, width = x.shape
    s, c, heads, k, g = config.packing, config.condition, config.heads, config.kernel_size, config.groups
    activation = F.relu if config.activation == "relu" else F.silu

    def norm(name: str, value: Tensor) -> Tensor:  # running statistics are 0 and 1
        return value / math.sqrt(1 + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    code = torch.zeros_like(x)
    for channel in range(d):
        half, index = d // 2, channel % (d // 2)
        rate = 10000 ** (2 * (index // 2) / half)
        wave = math.sin if index % 2 == 0 else math.cos
        for i in range(height):
            for j in range(width):
                code[channel, i, j] = wave(((i if channel < half else j) + 1) / rate)
    seen = x + code
    prefix = "generator.affinity"
    real = words[mask]
    keys = real @ p[f"{prefix}.key.weight"].T + p[f"{prefix}.key.bias"]
    values = real @ p[f"{prefix}.value.weight"].T + p[f"{prefix}.value.bias"]
    condition = torch.zeros(c, height, width, dtype=x.dtype)
    for i in range(height // s):
        for j in range(width // s):
            token = seen[:, i * s : (i + 1) * s, j * s : (j + 1) * s].flatten()
            query = p[f"{prefix}.query.weight"].flatten(1) @ token + p[f"{prefix}.query.bias"]
            attended = []
            for head in range(heads):
                part = slice(head * c // heads, (head + 1) * c // heads)
                weights = torch.softmax(keys[:, part] @ query[part] / math.sqrt(c / heads), 0)
                attended.append(weights @ values[:, part])
            merged = p["generator.merge.weight"].flatten(1) @ torch.cat(attended) + p["generator.merge.bias"]
            condition[:, i * s : (i + 1) * s, j * s : (j + 1) * s] = F.relu(merged).view(c, s, s)
    out = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            here = F.relu(norm("generator.norm", condition[:, i, j]))
            filters = (p["filters.weight"] @ here + p["filters.bias"]).view(k, k, g)
            total = torch.zeros(d, dtype=x.dtype)
            for di in range(k):
                for dj in range(k):
                    y, z = i + di - k // 2, j + dj - k // 2
                    if 0 <= y < height and 0 <= z < width:
                        channels = torch.arange(d)
                        group = channels % g if config.interleaved else channels // (d // g)
                        total += x[:, y, z] * filters[di, dj, group]
            row = activation(norm("norm", total) + x[:, i, j])
            inner = activation(norm("mlp.expand_norm", p["mlp.expand.weight"].flatten(1) @ row))
            row = row + norm("mlp.reduce_norm", p["mlp.reduce.weight"].flatten(1) @ inner)
            out[:, i, j] = activation(row) if config.output_activation else row
    return out


@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, packing=1, kernel_size=5, activation="silu", output_activation=True, interleaved=True)],
)
def test_equals_the_equations(config: BlockConfig) -> None:
    made = block(config)
    x, words, mask = inputs(config)
    out = made(x, words, mask)
    for i in range(2):
        torch.testing.assert_close(out[i], literal(made, x[i], words[i], mask[i]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("preset", ["s", "b", "tiny"])
def test_parameters_follow_the_formula(preset: str) -> None:
    net = PRESETS[preset]
    for stage, (d, c, g, s) in enumerate(zip(net.dims, net.conditions, net.groups, net.packing, strict=True)):
        k, words = net.kernels[stage][0], net.words
        with torch.device("meta"):
            made = LaConvBlock(BlockConfig(d, c, g, s, k, words, net.heads))
        expected = (
            (d * s**2 * c + c) + 2 * (words * c + c) + (c**2 * s**2 + c * s**2) + 2 * c
            + (c * k**2 * g + k**2 * g) + 2 * d + (8 * d**2 + 10 * d)
        )  # fmt: skip
        assert sum(p.numel() for p in made.parameters()) == expected


def test_packing_is_exactly_undone() -> None:
    x = torch.arange(2 * 4 * 8 * 8, dtype=torch.float64).view(2, 4, 8, 8)
    generator = ConditionGenerator(replace(CONFIG, dim=4, packing=4)).double()
    packed = generator.packed(x)
    assert packed.shape == (2, 64, 2, 2)
    code = position_code(4, 8, 8, x.device, x.dtype)
    torch.testing.assert_close(F.pixel_shuffle(packed, 4) - code, x)
    # A token is the 4x4 neighbourhood of its place, channel by channel.
    torch.testing.assert_close(packed[0, :, 1, 0], (x + code)[0, :, 4:8, 0:4].flatten())


def test_position_code_stays_off_the_value_path(monkeypatch: pytest.MonkeyPatch) -> None:
    made = block()
    x, words, mask = inputs()
    with torch.no_grad():
        made.filters.weight.zero_()  # the filters no longer depend on the condition: what is left is the value path
        plain = made(x, words, mask)
        monkeypatch.setattr(
            "laconvnet.pipeline.model.blocks.laconv.position_code", lambda d, h, w, *_: torch.full((d, h, w), 100.0)
        )
        assert torch.equal(made(x, words, mask), plain)
        made.filters.weight.normal_()
        moved = made(x, words, mask)
        monkeypatch.undo()
        assert not torch.allclose(made(x, words, mask), moved)


def test_affinity_sums_to_one_over_the_real_words() -> None:
    _, words, mask = inputs()
    image = torch.randn(2, 32, 3, 3, dtype=torch.float64)
    weights = Affinity(CONFIG).double().weights(image, words, mask)
    assert weights.shape == (2, 3, 5, 9)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 3, 9, dtype=torch.float64))
    assert weights[1, :, 2:].abs().max() == 0


def test_masked_softmax_survives_float16_and_empty_rows() -> None:
    scores = torch.tensor([[60000.0, -60000.0, 3.0], [1.0, 2.0, 3.0]], dtype=torch.float16, requires_grad=True)
    weights = masked_softmax(scores, torch.tensor([[True, True, False], [False, False, False]]), dim=1)
    weights.square().sum().backward()
    assert weights.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_filter_dropout_follows_the_random_state() -> None:
    made = block(replace(CONFIG, affinity_dropout=0.0, filter_dropout=0.5)).train()
    x, words, mask = inputs()
    torch.manual_seed(4)
    first = made(x, words, mask)
    assert not torch.allclose(first, made(x, words, mask))
    torch.manual_seed(4)
    assert torch.equal(first, made(x, words, mask))
