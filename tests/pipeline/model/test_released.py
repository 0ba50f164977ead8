"""Released weights in our places: facts of the released code as tables and literal loops; the values are random."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet import kernels
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import PRESETS, ModelConfig, build_model
from laconvnet.pipeline.model.language import LanguageEncoder
from laconvnet.pipeline.model.released import Released, convert
from tests.pipeline.model.released_shapes import WORDS, Shapes, language, neck, rec_head, res_head, small, visual

_THEIR_NORMS = ("norm1.weight", "norm2.weight")
_OUR_NORMS = ("attention_norm.weight", "ffn_norm.weight")


def filled(shapes: Shapes) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(0)
    counts = (name for name, shape in shapes.items() if shape == ())
    state = {name: torch.rand(shape, generator=made) for name, shape in shapes.items() if shape}
    return state | {name: torch.tensor(place) for place, name in enumerate(counts)}


@pytest.fixture(scope="module")
def rec() -> dict[str, Tensor]:
    return filled(small() | rec_head())


@pytest.fixture(scope="module")
def res() -> dict[str, Tensor]:
    return filled(small() | res_head())


@pytest.fixture(scope="module")
def from_rec(rec: dict[str, Tensor]) -> Released:
    return convert(rec, WORDS, "rec.pth")


@pytest.fixture(scope="module")
def from_res(res: dict[str, Tensor]) -> Released:
    return convert(res, WORDS, "res.pth")


def test_network_and_task_are_read_off_the_names(from_rec: Released, from_res: Released) -> None:
    assert (from_rec.config.preset, from_rec.config.task, from_rec.config.head) == ("s_released", "rec", "points")
    assert (from_res.config.preset, from_res.config.task, from_res.config.head) == ("s_released", "res", "masks")
    # Their masks were trained with this way of enlarging.
    assert from_res.config.heads.masks.align_corners


def test_the_tables_are_those_of_the_released_models(rec: dict[str, Tensor], res: dict[str, Tensor]) -> None:
    def trained(state: dict[str, Tensor]) -> int:
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        sizes: list[int] = [tensor.numel() for name, tensor in state.items() if not name.endswith(buffers)]
        return sum(sizes) - 300 * WORDS

    assert (len(rec), trained(rec)) == (639, 21_629_554)
    assert (len(res), trained(res)) == (769, 21_821_678)


@pytest.mark.parametrize("head", [rec_head, res_head])
def test_the_large_network_fits(head: Callable[[], Shapes]) -> None:
    shapes = language() | visual((3, 5, 7), (3, 3, 4, 6, 3)) | neck() | head()
    one = {name: torch.zeros((), dtype=torch.int64 if shape == () else torch.float32) for name, shape in shapes.items()}
    found = convert({name: one[name].expand(shape) for name, shape in shapes.items()}, WORDS, "b.pth")
    assert found.config.preset == "b_released"


@pytest.mark.parametrize("kind", ["rec", "res"])
def test_the_weights_are_the_models_own(kind: str, request: pytest.FixtureRequest) -> None:
    found: Released = request.getfixturevalue(f"from_{kind}")
    model = build_model(found.config, WORDS)
    model.load_state_dict(found.weights, strict=True)
    # Nothing is lost or there twice: the numbers add up, but for the weights of the layer norms.
    theirs: dict[str, Tensor] = request.getfixturevalue(kind)
    original = sum(float(t.sum(dtype=torch.float64)) for n, t in theirs.items() if not n.endswith(_THEIR_NORMS))
    taken = sum(float(t.sum(dtype=torch.float64)) for n, t in found.weights.items() if not n.endswith(_OUR_NORMS))
    assert math.isclose(original, taken, rel_tol=1e-12)


PAIRS = {
    "language.embedding.weight": "lang_encoder.embedding.weight",
    "language.rnn.weight_hh_l0": "lang_encoder.lstm.weight_hh_l0",
    "language.rnn.bias_ih_l0": "lang_encoder.lstm.bias_ih_l0",
    "language.attention.0.query.weight": "lang_encoder.sa_list.0.mhatt.linear_q.weight",
    "language.attention.0.key.weight": "lang_encoder.sa_list.0.mhatt.linear_k.weight",
    "language.attention.0.value.weight": "lang_encoder.sa_list.0.mhatt.linear_v.weight",
    "language.attention.0.merge.bias": "lang_encoder.sa_list.0.mhatt.linear_merge.bias",
    "language.attention.0.attention_norm.bias": "lang_encoder.sa_list.0.norm1.bias",
    "language.attention.0.ffn.0.bias": "lang_encoder.sa_list.0.ffn.mlp.fc.linear.bias",
    "language.attention.0.ffn.3.bias": "lang_encoder.sa_list.0.ffn.mlp.linear.bias",
    "language.attention.0.ffn_norm.bias": "lang_encoder.sa_list.0.norm2.bias",
    "language.pool.score.0.weight": "lang_encoder.att_flat.mlp.fc.linear.weight",
    "language.pool.merge.weight": "lang_encoder.att_flat.linear_merge.weight",
    "visual.stages.0.downsample.project.norm.bias": "visual_encoder.stem.conv.bn.bias",
    "visual.stages.3.downsample.project.norm.running_var": "visual_encoder.blocks.3.0.conv.bn.running_var",
    "visual.stages.0.blocks.1.norm.weight": "visual_encoder.blocks.0.1.bn1.weight",
    "visual.stages.2.blocks.0.generator.affinity.query.weight": (
        "visual_encoder.blocks.2.1.cond_generator.mha.linear_q.weight"
    ),
    "visual.stages.2.blocks.1.generator.affinity.key.weight": (
        "visual_encoder.blocks.2.2.cond_generator.mha.linear_k.weight"
    ),
    "visual.stages.4.blocks.0.generator.affinity.value.weight": (
        "visual_encoder.blocks.4.1.cond_generator.mha.linear_v.weight"
    ),
    "visual.stages.3.blocks.3.generator.merge.bias": "visual_encoder.blocks.3.4.cond_generator.mha.linear_merge.bias",
    "visual.stages.3.blocks.0.generator.norm.bias": "visual_encoder.blocks.3.1.cond_generator.norm.bias",
    "visual.stages.1.blocks.0.mlp.expand.weight": "visual_encoder.blocks.1.1.block1.0.weight",
    "visual.stages.1.blocks.0.mlp.expand_norm.num_batches_tracked": (
        "visual_encoder.blocks.1.1.block1.1.num_batches_tracked"
    ),
    "visual.stages.1.blocks.0.mlp.reduce.weight": "visual_encoder.blocks.1.1.block1.3.weight",
    "visual.stages.1.blocks.0.mlp.reduce_norm.bias": "visual_encoder.blocks.1.1.block1.4.bias",
    "head.neck.down.from_coarse.conv.weight": "multi_scale_manner.lateral_conv0.conv.weight",
    "head.neck.down.mix_middle.through.conv.weight": "multi_scale_manner.C3_p4.conv1.conv.weight",
    "head.neck.down.mix_middle.past.conv.weight": "multi_scale_manner.C3_p4.conv2.conv.weight",
    "head.neck.down.mix_middle.merge.norm.bias": "multi_scale_manner.C3_p4.conv3.bn.bias",
    "head.neck.down.from_middle.conv.weight": "multi_scale_manner.reduce_conv1.conv.weight",
    "head.neck.down.mix_fine.bottlenecks.2.1.conv.weight": "multi_scale_manner.C3_p3.m.2.conv2.conv.weight",
    "head.neck.down.mix_fine.bottlenecks.0.0.norm.weight": "multi_scale_manner.C3_p3.m.0.conv1.bn.weight",
    "head.neck.to_middle.conv.weight": "multi_scale_manner.bu_conv2.conv.weight",
    "head.neck.mix_middle.through.conv.weight": "multi_scale_manner.C3_n3.conv1.conv.weight",
    "head.neck.to_coarse.norm.weight": "multi_scale_manner.bu_conv1.bn.weight",
    "head.neck.mix_coarse.past.conv.weight": "multi_scale_manner.C3_n4.conv2.conv.weight",
}
REC_PAIRS = PAIRS | {
    "head.mix.0.conv.weight": "head.stems.0.conv.weight",
    "head.mix.1.conv.weight": "head.reg_convs.0.0.conv.weight",
    "head.mix.2.norm.running_mean": "head.reg_convs.0.1.bn.running_mean",
}
RES_PAIRS = {
    "head.neck.down.mix_middle.past.conv.weight": "multi_scale_manner.C3_p4.conv2.conv.weight",
    "head.second_neck.mix_middle.past.conv.weight": "detection_neck.C3_p4.conv2.conv.weight",
    "head.second_neck.from_middle.norm.bias": "detection_neck.reduce_conv1.bn.bias",
    "head.pyramid.branches.0.conv.weight": "head.sconv.0.conv0.conv.weight",
    "head.pyramid.branches.1.conv.weight": "head.sconv.0.conv1.conv.weight",
    "head.pyramid.branches.2.conv.weight": "head.sconv.0.conv2.conv.weight",
    "head.pyramid.branches.3.norm.weight": "head.sconv.0.conv3.batch_norm.weight",
    "head.pyramid.branches.4.conv.weight": "head.sconv.0.conv4.conv.weight",
    "head.pyramid.project.weight": "head.sconv.0.out_proj.weight",
}


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [("rec", *pair) for pair in REC_PAIRS.items()] + [("res", *pair) for pair in RES_PAIRS.items()],
)
def test_what_keeps_its_order_stands_where_it_did(
    kind: str, ours: str, theirs: str, request: pytest.FixtureRequest
) -> None:
    assert torch.equal(request.getfixturevalue(f"from_{kind}").weights[ours], request.getfixturevalue(kind)[theirs])


def test_four_channels_of_the_box_then_objectness(rec: dict[str, Tensor], from_rec: Released) -> None:
    for leaf in ("weight", "bias"):
        found = from_rec.weights[f"head.predict.{leaf}"]
        assert torch.equal(found[:4], rec[f"head.reg_preds.0.{leaf}"])
        assert torch.equal(found[4:], rec[f"head.obj_preds.0.{leaf}"])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("visual.stages.0.downsample.project.conv.weight", "visual_encoder.stem.conv.conv.weight"),
        ("visual.stages.1.downsample.project.conv.weight", "visual_encoder.blocks.1.0.conv.conv.weight"),
        ("visual.stages.4.downsample.project.conv.weight", "visual_encoder.blocks.4.0.conv.conv.weight"),
    ],
)
def test_space_to_depth_of_whole_images(ours: str, theirs: str, rec: dict[str, Tensor], from_rec: Released) -> None:
    """Theirs: all channels of the top left pixel, then bottom left, top right, bottom right."""
    weight = rec[theirs].double()
    channels, padding = weight.shape[1] // 4, weight.shape[2] // 2
    x = torch.rand(1, channels, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    stacked = torch.zeros(1, 4 * channels, 3, 2, dtype=torch.float64)
    for place, (down, right) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        for row in range(3):
            for column in range(2):
                pixel = x[0, :, 2 * row + down, 2 * column + right]
                stacked[0, place * channels : (place + 1) * channels, row, column] = pixel
    expected = F.conv2d(stacked, weight, padding=padding)
    found = F.conv2d(F.pixel_unshuffle(x, 2), from_rec.weights[ours].double(), padding=padding)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("stage", "block", "k", "g", "dim"), [(0, 1, 5, 4, 16), (4, 0, 7, 16, 512)])
def test_filters_of_a_pixel(
    stage: int, block: int, k: int, g: int, dim: int, rec: dict[str, Tensor], from_rec: Released
) -> None:
    """Theirs: filter value (group, tap) is channel group * k * k + tap; image channel ch has group ch % g."""
    name = f"visual_encoder.blocks.{stage}.{block + (stage > 0)}.conv1.linear"
    weight, bias = rec[f"{name}.weight"].double()[:, :, 0, 0], rec[f"{name}.bias"].double()
    made = torch.Generator().manual_seed(1)
    height, width, channels = 3, 2, range(0, dim, 5)
    x = torch.rand(1, dim, height, width, dtype=torch.float64, generator=made)
    condition = torch.rand(1, weight.shape[1], height, width, dtype=torch.float64, generator=made)
    ours = f"visual.stages.{stage}.blocks.{block}.filters"
    assert PRESETS["s_released"].interleaved
    found = kernels.laconv(
        x,
        condition,
        from_rec.weights[f"{ours}.weight"].double(),
        from_rec.weights[f"{ours}.bias"].double(),
        k,
        g,
        interleaved=True,
    )
    for row in range(height):
        for column in range(width):
            values = weight @ condition[0, :, row, column] + bias
            for channel in channels:
                total = 0.0
                for tap in range(k * k):
                    down, right = row + tap // k - k // 2, column + tap % k - k // 2
                    if 0 <= down < height and 0 <= right < width:
                        total += float(values[(channel % g) * k * k + tap] * x[0, channel, down, right])
                assert math.isclose(float(found[0, channel, row, column]), total, rel_tol=1e-9)


@pytest.mark.parametrize(("ours", "theirs"), [("attention_norm", "norm1"), ("ffn_norm", "norm2")])
def test_layer_norm_by_the_other_deviation(ours: str, theirs: str, rec: dict[str, Tensor], from_rec: Released) -> None:
    """Theirs: weight * (x - mean) / (deviation by n - 1, plus 1e-6) + bias."""
    x = torch.randn(4, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight, bias = (rec[f"lang_encoder.sa_list.0.{theirs}.{leaf}"].double() for leaf in ("weight", "bias"))
    mean = x.sum(1, keepdim=True) / 512
    deviation = ((x - mean).square().sum(1, keepdim=True) / 511).sqrt()
    expected = weight * (x - mean) / (deviation + 1e-6) + bias
    norm = nn.LayerNorm(512, dtype=torch.float64)
    norm.load_state_dict({leaf: from_rec.weights[f"language.attention.0.{ours}.{leaf}"] for leaf in ("weight", "bias")})
    # The constants differ: 5e-6 at variance 1. Without the factor it would be 1e-3.
    torch.testing.assert_close(norm(x), expected, rtol=2e-5, atol=2e-5)


def test_names_of_parallel_training_are_the_same(rec: dict[str, Tensor], from_rec: Released) -> None:
    again = convert({f"module.{name}": tensor for name, tensor in rec.items()}, WORDS, "parallel.pth")
    assert again.weights.keys() == from_rec.weights.keys()
    assert all(torch.equal(tensor, from_rec.weights[name]) for name, tensor in again.weights.items())


def test_half_precision_is_widened_and_nothing_shares_memory_with_the_file(rec: dict[str, Tensor]) -> None:
    store = torch.zeros(1000)
    state = dict(rec)
    state["lang_encoder.lstm.bias_ih_l0"] = rec["lang_encoder.lstm.bias_ih_l0"].half()
    state["visual_encoder.stem.conv.bn.bias"] = store[16:32]
    weights = convert(state, WORDS, "half.pth").weights
    assert weights["language.rnn.bias_ih_l0"].dtype == torch.float32
    assert weights["visual.stages.0.downsample.project.norm.bias"].untyped_storage().nbytes() == 16 * 4
    pointers = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    assert not pointers & {tensor.untyped_storage().data_ptr() for tensor in weights.values()}


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.__delitem__(name)


def put(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.__setitem__(name, tensor)


LINEAR = "visual_encoder.blocks.0.1.conv1.linear.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("head.obj_preds.0.bias"), r"lacks head\.obj_preds\.0\.bias, which preset s_released needs"),
        (without("lang_encoder.embedding.weight"), r"lacks lang_encoder\.embedding\.weight"),
        (
            put("lang_encoder.embedding.weight", torch.zeros(9, 300)),
            r"shape \(9, 300\), the vocabulary 11 words; expected",
        ),
        (put("lang_encoder.embedding.weight", torch.zeros(())), r"has shape \(\), the vocabulary 11 words"),
        (put("lang_encoder.embedding.weight", torch.zeros(11, 50)), r"weight: shape \(11, 50\), expected \(11, 300\)"),
        (without("visual_encoder.stem.conv.bn.running_var"), r"lacks visual_encoder\.stem\.conv\.bn\.running_var"),
        (
            put("head.extra", torch.zeros(1)),
            r"head\.extra and 0 more .* preset s_released with head points",
        ),
        (
            put(LINEAR, torch.zeros(36, 64, 1, 1)),
            r"conv1\.linear\.weight: shape \(36, 64, 1, 1\), expected \(100, 64, 1, 1\)",
        ),
        (put(LINEAR, torch.zeros(100, 64)), r"shape \(100, 64\), expected \(100, 64, 1, 1\)"),
        (
            put("head.reg_preds.0.bias", torch.zeros(5)),
            r"reg_preds\.0\.bias \+ head.*shape \(5,\) \+ \(1,\), expected \(5,\)",
        ),
        (
            put("head.reg_preds.0.weight", torch.zeros(4, 9, 1, 1)),
            r"\(4, 9, 1, 1\) \+ \(1, 256, 1, 1\), expected \(5, 256",
        ),
        (
            put("lang_encoder.lstm.bias_ih_l0", torch.full((1536,), math.nan)),
            r"lstm\.bias_ih_l0: expected finite real numbers",
        ),
        (
            put("lang_encoder.lstm.bias_ih_l0", torch.zeros(1536, dtype=torch.int64)),
            r"expected finite real numbers, found others in torch\.int64",
        ),
        (put("visual_encoder.blocks.1.2.conv1.linear.weight", torch.zeros(1)), r"\(2, 2, 2, 4, 1\) LaConv blocks"),
    ],
)
def test_what_does_not_fit_is_named(
    change: Callable[[dict[str, Tensor]], None], message: str, rec: dict[str, Tensor]
) -> None:
    state = dict(rec)
    change(state)
    with pytest.raises(ConfigError, match=rf"^best\.pth: .*{message}") as error:
        convert(state, WORDS, "best.pth")
    assert "\n" not in str(error.value)


def test_weights_of_something_else_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^x\.pth: \(0, 0, 0, 0, 0\) .* \(2, 1, 2, 4, 1\) \(s_released\)"):
        convert({"layer1.weight": torch.zeros(1)}, WORDS, "x.pth")
    with pytest.raises(ConfigError, match="LaConv blocks"):
        convert({}, WORDS, "x.pth")


def encoder(pool: bool) -> LanguageEncoder:
    torch.manual_seed(0)
    return LanguageEncoder(WORDS, 12, 16, 1, "gru", 2, 32, 0.0, pool=pool)


def test_the_unread_pool_changes_nothing_and_needs_no_gradient() -> None:
    tokens = torch.tensor([[3, 4, 0], [5, 6, 7]])
    plain, pooled = encoder(False), encoder(True)
    assert {name for name in pooled.state_dict() if name not in plain.state_dict()} == {
        f"pool.{name}.{leaf}" for name in ("score.0", "score.3", "merge") for leaf in ("weight", "bias")
    }
    words, _ = pooled(tokens)
    assert torch.equal(words, plain(tokens)[0])
    words.square().sum().backward()
    for name, parameter in pooled.named_parameters():
        assert parameter.requires_grad != name.startswith("pool."), name
        assert (parameter.grad is None) == name.startswith("pool."), name


@pytest.mark.parametrize("preset", list(PRESETS))
def test_only_the_released_presets_have_it(preset: str) -> None:
    with torch.device("meta"):
        names = build_model(ModelConfig(preset=preset), WORDS).state_dict()
    assert any(name.startswith("language.pool.") for name in names) == preset.endswith("_released")
