"""Word encoder, fusion and answers against slow transcriptions; what every network of the presets promises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.pipeline.model import LanguageConfig, Model, ModelConfig, build_model
from laconvnet.pipeline.model.blocks import BLOCKS, BlockConfig
from laconvnet.pipeline.model.blocks.laconv import LaConvBlock
from laconvnet.pipeline.model.draws import Dropout
from laconvnet.pipeline.model.heads import HEADS, Features
from laconvnet.pipeline.model.heads.anchors import MultiScaleFusion
from laconvnet.pipeline.model.heads.answers import AnswerHead, AnswerHeadConfig
from laconvnet.pipeline.model.language import LanguageEncoder, SelfAttention
from laconvnet.pipeline.model.layers import AttentivePool, position_code
from laconvnet.pipeline.model.net import PRESETS, LaConvNet
from laconvnet.pipeline.model.norm import BatchNorm


def assert_exact(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def shaken(module: nn.Module) -> Any:
    """In float64 for evaluation, with norms that do something: fresh ones only divide by 1."""
    torch.manual_seed(3)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if "norm" in name and tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return module.double().eval()


def rows(parameters: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ parameters[f"{name}.weight"].flatten(1).T + parameters[f"{name}.bias"]


def layer_norm(parameters: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + 1e-5) * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def literal_words(made: LanguageEncoder, tokens: list[int], kind: str) -> Tensor:
    """One expression without padding, gate by gate, head by head."""
    p = {name: value.detach() for name, value in made.named_parameters()}
    hidden = made.rnn.hidden_size
    state, cell, outputs = torch.zeros(hidden).double(), torch.zeros(hidden).double(), []
    for token in tokens:
        seen = p["rnn.weight_ih_l0"] @ p["embedding.weight"][token] + p["rnn.bias_ih_l0"]
        kept = p["rnn.weight_hh_l0"] @ state + p["rnn.bias_hh_l0"]
        if kind == "lstm":
            enter, forget, candidate, out = (seen + kept).split(hidden)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(candidate)
            state = torch.sigmoid(out) * torch.tanh(cell)
        else:
            (reset, update), new = (seen + kept)[: 2 * hidden].split(hidden), slice(2 * hidden, None)
            candidate = torch.tanh(seen[new] + torch.sigmoid(reset) * kept[new])
            state = (1 - torch.sigmoid(update)) * candidate + torch.sigmoid(update) * state
        outputs.append(state)
    words = torch.stack(outputs)
    for index, layer in enumerate(made.attention):
        assert isinstance(layer, SelfAttention)
        at, width = f"attention.{index}", hidden // layer.heads
        query, key, value = (rows(p, f"{at}.{name}", words) for name in ("query", "key", "value"))
        merged = []
        for i in range(len(tokens)):
            attended = []
            for head in range(layer.heads):
                part = slice(head * width, (head + 1) * width)
                scores = torch.stack([query[i, part] @ key[j, part] for j in range(len(tokens))]) / math.sqrt(width)
                attended.append(torch.softmax(scores, 0) @ value[:, part])
            merged.append(rows(p, f"{at}.merge", torch.cat(attended)))
        words = torch.stack(
            [layer_norm(p, f"{at}.attention_norm", word + add) for word, add in zip(words, merged, strict=True)]
        )
        inner = F.relu(rows(p, f"{at}.ffn.0", words))
        added = rows(p, f"{at}.ffn.3", inner)
        words = torch.stack([layer_norm(p, f"{at}.ffn_norm", word) for word in words + added])
    return words


@pytest.mark.parametrize(("kind", "layers"), [("lstm", 3), ("gru", 1)])
def test_word_encoder(kind: Any, layers: int) -> None:
    torch.manual_seed(0)
    made = shaken(LanguageEncoder(9, 5, 6, layers, kind, heads=2, ffn=7, dropout=0.1))
    words, mask = made(torch.tensor([[3, 4, 8, 0, 0], [2, 5, 3, 7, 1]]))
    assert mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert_exact(words[0, :3], literal_words(made, [3, 4, 8], kind))
    assert_exact(words[1], literal_words(made, [2, 5, 3, 7, 1], kind))


def literal_step(made: nn.Module, name: str, x: Tensor, size: int) -> Tensor:
    """Convolution tap by tap, norm by the running statistics, leaky ReLU; x (C, H, W)."""
    weight = made.get_parameter(f"{name}.conv.weight").detach()
    _, height, width = x.shape
    out = torch.zeros(len(weight), height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            for di in range(size):
                for dj in range(size):
                    y, z = i + di - size // 2, j + dj - size // 2
                    if 0 <= y < height and 0 <= z < width:
                        out[:, i, j] += weight[:, :, di, dj] @ x[:, y, z]
    norm = made.get_submodule(f"{name}.norm")
    assert isinstance(norm, BatchNorm)
    mean, var, scale, bias = (
        value.detach()[:, None, None] for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    out = (out - mean) / torch.sqrt(var + 1e-5) * scale + bias
    return torch.where(out > 0, out, 0.1 * out)


def literal_double(x: Tensor) -> Tensor:
    """Bilinear, half-pixel centres, the border repeated."""
    channels, height, width = x.shape
    out = torch.zeros(channels, 2 * height, 2 * width, dtype=x.dtype)
    for i in range(2 * height):
        for j in range(2 * width):
            y, z = min(max((i + 0.5) / 2 - 0.5, 0), height - 1), min(max((j + 0.5) / 2 - 0.5, 0), width - 1)
            top, left = int(y), int(z)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = x[:, top, left] * (1 - z + left) + x[:, top, right] * (z - left)
            lower = x[:, below, left] * (1 - z + left) + x[:, below, right] * (z - left)
            out[:, i, j] = upper * (1 - y + top) + lower * (y - top)
    return out


def literal_halve(x: Tensor) -> Tensor:
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_multi_scale_fusion(stride: Any) -> None:
    torch.manual_seed(0)
    made = shaken(MultiScaleFusion((3, 4, 5), 6, stride))
    fine, middle, coarse = (torch.randn(2, c, 8 // 2**i, 8 // 2**i).double() for i, c in enumerate((3, 4, 5)))

    def step(name: str, x: Tensor) -> Tensor:
        return literal_step(made, f"{name}.mix", literal_step(made, f"{name}.squeeze", x, 1), 3)

    out = made(fine, middle, coarse)
    for b in range(2):
        down = torch.cat([step("from_coarse", literal_double(coarse[b])), middle[b]])
        merged = torch.cat([step("from_middle", literal_double(down)), fine[b]])
        if stride >= 16:
            merged = torch.cat([step("to_middle", literal_halve(merged)), down])
        if stride == 32:
            merged = torch.cat([step("to_coarse", literal_halve(merged)), coarse[b]])
        assert_exact(out[b], literal_step(made, "project", merged, 1))


def literal_pool(made: AttentivePool, items: Tensor) -> Tensor:
    p = {name: value.detach() for name, value in made.named_parameters()}
    scores = [rows(p, "score.3", F.relu(rows(p, "score.0", item))).squeeze() for item in items]
    weights = torch.softmax(torch.stack(scores), 0)
    return rows(p, "merge", sum(weight * item for weight, item in zip(weights, items, strict=True)))


@pytest.mark.parametrize("stride", [8, 32])
def test_answers(stride: Any) -> None:
    torch.manual_seed(0)
    made = shaken(AnswerHead(AnswerHeadConfig(pooled=7, stride=stride), Features((3, 4, 5), 6, 4)))
    p = {name: value.detach() for name, value in made.named_parameters()}
    maps = [torch.randn(2, c, 8 // 2**i, 8 // 2**i).double() for i, c in enumerate((3, 4, 5))]
    words, mask = torch.randn(2, 4, 6).double(), torch.tensor([[True] * 4, [True, True, False, False]])
    out = made(maps, words, mask)
    read = maps[{8: 0, 32: 2}[stride]]
    for b in range(2):
        cells = torch.stack([read[b, :, i, j] for i in range(read.shape[2]) for j in range(read.shape[3])])
        fused = literal_pool(made.image, cells) + literal_pool(made.words, words[b][mask[b]])
        inner = F.relu(rows(p, "hidden.0", layer_norm(p, "norm", fused)))
        assert_exact(out[b], rows(p, "choose", inner))


def no_dropout(module: nn.Module) -> nn.Module:
    for inner in module.modules():
        if isinstance(inner, Dropout):
            inner.p = 0.0
    return module


def gradients_are_right(made: nn.Module, inputs: list[Tensor], call: Any) -> bool:
    """Against finite differences along random directions, in the inputs and all parameters as one vector."""
    names = [name for name, _ in made.named_parameters()]
    values = [*inputs, *(value.detach() for value in made.parameters())]
    sizes, shapes = [value.numel() for value in values], [value.shape for value in values]

    def forward(vector: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        parameters = dict(zip(names, parts[len(inputs) :], strict=True))
        out: Tensor = torch.func.functional_call(made, parameters, call(*parts[: len(inputs)]))
        return out

    vector = torch.cat([value.flatten() for value in values]).requires_grad_()
    return torch.autograd.gradcheck(forward, vector, fast_mode=True)


@pytest.mark.parametrize("generator", ["affinity", "words"])
def test_gradients_of_a_block_in_training(generator: Any) -> None:
    config = BlockConfig(
        dim=4, condition=4, groups=2, packing=2, kernel_size=3, words=3, heads=2, generator=generator,
        activation="silu", affinity_dropout=0.0, filter_dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    made = shaken(LaConvBlock(config)).train()
    x, words = torch.randn(2, 4, 4, 4).double(), torch.randn(2, 3, 3).double()
    mask = torch.tensor([[True] * 3, [True, False, False]])
    assert gradients_are_right(made, [x, words], lambda x, words: (x, words, mask))


@pytest.mark.parametrize("name", HEADS)
def test_gradients_of_a_head_in_training(name: str) -> None:
    torch.manual_seed(0)
    made = HEADS[name](HEADS[name].Config(), Features((4, 6, 8), 6, answers=3))
    shaken(no_dropout(made)).train()
    maps = [torch.randn(2, c, 8 // 2**i, 8 // 2**i).double() for i, c in enumerate((4, 6, 8))]
    mask = torch.tensor([[True] * 3, [True, False, False]])
    words = torch.randn(2, 3, 6).double()
    assert gradients_are_right(made, [*maps, words], lambda *values: (list(values[:3]), values[3], mask))


@pytest.fixture
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every preset, its switches and depths as they are, at narrow widths."""
    for name, net in PRESETS.items():
        widths = (8, 8, 16, 16, 32)
        small = replace(
            net, dims=widths, conditions=widths, groups=(2, 4, 4, 8, 8), heads=4, words=16, word_dim=12,
        )  # fmt: skip
        monkeypatch.setitem(PRESETS, name, small)


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(3, 3, 32, 32), torch.tensor([[5, 6, 7, 8, 0], [9, 4, 0, 0, 0], [3, 3, 4, 5, 6]])


def make(config: ModelConfig) -> Model:
    """For evaluation, with the statistics of `batch()`: by fresh ones a deep network tells no two images apart."""
    torch.manual_seed(0)
    quiet = replace(config, affinity_dropout=0.0, filter_dropout=0.0, language=LanguageConfig(dropout=0.0))
    model = build_model(quiet, 30, answers=7).train()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model(*batch())
    return model.eval()


def configs() -> Iterator[ModelConfig]:
    # 15 and 19 have the switches of 10, b those of s.
    yield from (ModelConfig(preset=preset) for preset in ("tiny", "10", "s", "s_released", "b_released"))
    yield from (ModelConfig(preset="s_released", block=block) for block in BLOCKS if block != "laconv")
    yield from (ModelConfig(preset="tiny", task=head.tasks[0], head=name) for name, head in HEADS.items())


@pytest.mark.usefixtures("small_presets")
@pytest.mark.parametrize("config", configs(), ids=lambda c: f"{c.preset}-{c.block}-{c.head}")
def test_neither_padding_nor_the_rest_of_the_batch_matters(config: ModelConfig) -> None:
    model = make(config).double()
    images, tokens = batch()
    images, order = images.double(), torch.tensor([2, 0, 1])
    with torch.no_grad():
        out = model(images, tokens)
        other = model(images, tokens.where(tokens != 7, 11))
        assert_exact(other[1:], out[1:])
        if config.block != "group_conv":
            assert (other[0] - out[0]).abs().max() > 1e-4
        model.language.embedding.weight[0] = 100.0
        assert_exact(model(images[order], F.pad(tokens, (0, 10))[order]), out[order])


NORM = ("weight", "bias", "running_mean", "running_var")


def as_contiguous(channels: int, groups: int) -> Tensor:
    """Place p of a block with contiguous groups holds this channel of the block that takes the group by modulo."""
    return torch.arange(channels).view(-1, groups).T.flatten()


def packed(order: Tensor, packing: int) -> Tensor:
    """The same permutation for channels that hold packing x packing pixels each."""
    return (order[:, None] * packing**2 + torch.arange(packing**2)).flatten()


def permuted_block(state: dict[str, Tensor], config: BlockConfig, prefix: str = "") -> dict[str, Tensor]:
    """The weights of a block with interleaved groups, for the same block with contiguous groups."""
    order = as_contiguous(config.dim, config.groups)
    state = dict(state)
    query = f"{prefix}generator.affinity.query.weight"
    state[query] = state[query][:, packed(order, config.packing)]
    state[f"{prefix}mlp.expand.weight"] = state[f"{prefix}mlp.expand.weight"][:, order]
    state[f"{prefix}mlp.reduce.weight"] = state[f"{prefix}mlp.reduce.weight"][order]
    for name in (f"{prefix}{norm}.{what}" for norm in ("norm", "mlp.reduce_norm") for what in NORM):
        state[name] = state[name][order]
    return state


def permute_position_code(monkeypatch: pytest.MonkeyPatch, orders: dict[int, Tensor]) -> None:
    """The code tells channels apart by their place: the twin's channels must carry that of the original's."""
    monkeypatch.setattr(
        "laconvnet.pipeline.model.blocks.laconv.position_code",
        lambda channels, *rest: position_code(channels, *rest)[orders[channels]],
    )


def test_contiguous_and_interleaved_groups_are_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    config = BlockConfig(dim=12, condition=8, groups=3, packing=2, kernel_size=3, words=6, heads=2, interleaved=True)
    order = as_contiguous(12, 3)
    assert order.tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    torch.manual_seed(0)
    made, twin = shaken(LaConvBlock(config)), LaConvBlock(replace(config, interleaved=False)).double().eval()
    twin.load_state_dict(permuted_block(made.state_dict(), config))
    x, words, mask = torch.randn(2, 12, 4, 6).double(), torch.randn(2, 3, 6).double(), torch.ones(2, 3).bool()
    out = made(x, words, mask)
    permute_position_code(monkeypatch, {12: order})
    torch.testing.assert_close(twin(x[:, order], words, mask), out[:, order])
    assert not torch.allclose(twin(x, words, mask), out)


def test_contiguous_and_interleaved_groups_are_one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    net = replace(PRESETS["tiny"], interleaved=True, activation="silu", output_activation=True)
    torch.manual_seed(0)
    made, twin = shaken(LaConvNet(net)), LaConvNet(replace(net, interleaved=False)).double().eval()
    orders = [as_contiguous(dim, groups) for dim, groups in zip(net.dims, net.groups, strict=True)]
    state, inputs = made.state_dict(), torch.arange(3)
    for index, order in enumerate(orders):
        stage = made.stages[index]
        down = f"stages.{index}.downsample.project"
        state[f"{down}.conv.weight"] = state[f"{down}.conv.weight"][order][:, packed(inputs, 2)]
        for name in NORM:
            state[f"{down}.norm.{name}"] = state[f"{down}.norm.{name}"][order]
        for place, block in enumerate(stage.blocks):
            state = permuted_block(state, block.config, f"stages.{index}.blocks.{place}.")
        inputs = order
    twin.load_state_dict(state)
    images = torch.rand(2, 3, 32, 32).double()
    words, mask = torch.randn(2, 3, net.words).double(), torch.ones(2, 3).bool()
    maps = made(images, words, mask)
    permute_position_code(monkeypatch, dict(zip(net.dims, orders, strict=True)))
    for order, expected, found in zip(orders, maps, twin(images, words, mask), strict=True):
        assert_exact(found, expected[:, order])


@pytest.mark.parametrize(
    ("switches", "task", "head"),
    [
        pytest.param({}, "rec", "anchors", marks=pytest.mark.variant),
        ({"interleaved": True, "activation": "silu", "output_activation": True, "language_rnn": "gru"}, "res", "masks"),
    ],
    ids=["paper", "released"],
)
def test_compiled_and_exported_models_answer_the_same(
    switches: dict[str, Any], task: str, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heads one by one stand in test_heads."""
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], **switches))
    model = make(ModelConfig(preset="tiny", task=task, head=head)).double()
    images, tokens = batch()
    images = images.double()
    with torch.no_grad():
        expected = model(images, tokens)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with torch._dynamo.config.patch(allow_rnn=True):  # it takes no recurrence otherwise
            assert_exact(compiled(images, tokens), expected)
    torch._dynamo.reset()
    count = torch.export.Dim("batch", min=1, max=64)
    # From a batch of 2: a 1 would be taken for a constant.
    exported = torch.export.export(
        model, (images[:2], tokens[:2]), dynamic_shapes={"images": {0: count}, "tokens": {0: count}}
    ).module()
    for size in (1, 3):
        found = exported(images[:size], tokens[:size])
        assert_exact(found, expected[:size])
