"""The released heads and their necks: sizes, wiring, and what engines and exporters ask of a head."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import HeadsConfig, Model, ModelConfig, build_model
from laconvnet.pipeline.model.heads.base import Features, Head
from laconvnet.pipeline.model.heads.masks import ASPP, ImageBranch, ImageNorm, MaskHead, MaskHeadConfig
from laconvnet.pipeline.model.heads.pafpn import PAFPN, CrossStage, TopDown
from laconvnet.pipeline.model.heads.points import PointHead, PointHeadConfig
from laconvnet.pipeline.model.layers import ConvNormAct
from laconvnet.pipeline.model.norm import BatchNorm

RELEASED = (128, 256, 512)
WIDTHS = (8, 12, 16)
SIDE = 64


def make(name: str, **options: Any) -> Head:
    torch.manual_seed(0)
    features = Features(WIDTHS, words=16)
    if name == "points":
        return PointHead(PointHeadConfig(**{"hidden": 8, "stride": 8, **options}), features)
    return MaskHead(MaskHeadConfig(**options), features)


def inputs(count: int = 3, widths: tuple[int, int, int] = WIDTHS) -> tuple[list[Tensor], Tensor, Tensor]:
    """Stage maps, words and mask."""
    torch.manual_seed(1)
    maps = [torch.randn(count, width, SIDE // s, SIDE // s) for width, s in zip(widths, (8, 16, 32), strict=True)]
    return maps, torch.randn(count, 5, 16), torch.ones(count, 5, dtype=torch.bool)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def settled(head: Head) -> Head:
    """In evaluation, with running statistics that are not those of a fresh head."""
    for _ in range(5):
        head(*inputs())
    return head.eval()


# --- what the released code counts ------------------------------------------------------------------------------------


def test_parameters_of_the_released_heads() -> None:
    features = Features(RELEASED, words=512)
    with torch.device("meta"):
        points, masks = PointHead(PointHeadConfig(), features), MaskHead(MaskHeadConfig(), features)
    assert parameters(points.neck) == parameters(masks.neck) == 4_887_296
    assert parameters(points) - parameters(points.neck) == 1_313_541
    assert parameters(masks.second_neck) == 1_028_608
    assert parameters(masks.pyramid) == 477_057
    assert parameters(masks) == 4_887_296 + 1_028_608 + 477_057


def test_the_released_presets_answer_with_points() -> None:
    assert ModelConfig(preset="s_released").head_name() == "points"
    assert ModelConfig(preset="b_released").head_name() == "points"
    assert ModelConfig(preset="b_released", head="anchors").head_name() == "anchors"
    assert ModelConfig(preset="s").head_name() == "anchors"
    assert ModelConfig(preset="s_released", task="res").head_name() == "masks"
    assert ModelConfig(preset="tiny", task="grec").head_name() == "masks"
    with pytest.raises(ConfigError, match=r"model\.head: expected .*masks for task res, got 'points'"):
        ModelConfig(task="res", head="points").check()


# --- the necks --------------------------------------------------------------------------------------------------------


def test_a_convolution_keeps_the_side_whatever_its_dilation_and_halves_it_by_its_stride() -> None:
    x = torch.randn(2, 4, 16, 12)
    for dilation in (1, 6, 18):
        made = ConvNormAct(4, 6, 3, "silu", dilation=dilation).eval()
        expected = F.conv2d(F.pad(x, [dilation] * 4), made.conv.weight, dilation=dilation)
        torch.testing.assert_close(made(x), F.silu(expected / (1 + 1e-5) ** 0.5))
    halved = ConvNormAct(4, 6, 3, "silu", stride=2).eval()
    expected = F.conv2d(F.pad(x, [1] * 4), halved.conv.weight)[:, :, ::2, ::2]
    torch.testing.assert_close(halved(x), F.silu(expected / (1 + 1e-5) ** 0.5))


def test_the_cross_stage_sends_half_through_three_bottlenecks_and_half_past() -> None:
    made = CrossStage(10, 8).eval()
    x = torch.randn(2, 10, 6, 6)
    through = made.through(x)
    for bottleneck in made.bottlenecks:
        squeeze, mix = bottleneck.children()
        assert isinstance(squeeze, ConvNormAct)
        assert isinstance(mix, ConvNormAct)
        assert (squeeze.conv.kernel_size, mix.conv.kernel_size) == ((1, 1), (3, 3))
        through = mix(squeeze(through))
    assert len(made.bottlenecks) == 3
    torch.testing.assert_close(made(x), made.merge(torch.cat([through, made.past(x)], 1)))
    assert made.through.conv.out_channels == made.past.conv.out_channels == 4


def reach(neck: nn.Module, source: int, places: int) -> list[bool]:
    """Which outputs the stage map `source` reaches."""
    maps = inputs()[0]
    with torch.no_grad():
        before = neck.eval()(*maps)
        maps[source] = maps[source] + 1
        after = neck(*maps)
    assert len(before) == places
    return [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]


def test_every_stage_map_reaches_what_it_should() -> None:
    down = TopDown(WIDTHS)
    assert [reach(down, source, 3) for source in range(3)] == [[True, False, False], [True, True, False], [True] * 3]
    assert [tuple(m.shape) for m in down(*inputs()[0])] == [(3, 8, 8, 8), (3, 8, 4, 4), (3, 12, 2, 2)]
    both = PAFPN(WIDTHS)
    assert [reach(both, source, 3) for source in range(3)] == [[True] * 3] * 3
    assert [tuple(m.shape) for m in both(*inputs()[0])] == [(3, 8, 8, 8), (3, 12, 4, 4), (3, 16, 2, 2)]


def test_the_path_down_doubles_the_map_above_pixel_by_pixel() -> None:
    neck = TopDown(WIDTHS).eval()
    maps = inputs()[0]
    fine, middle, coarse = neck(*maps)
    doubled = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (middle, coarse)]
    torch.testing.assert_close(coarse, neck.from_coarse(maps[2]))
    torch.testing.assert_close(middle, neck.from_middle(neck.mix_middle(torch.cat([doubled[1], maps[1]], 1))))
    torch.testing.assert_close(fine, neck.mix_fine(torch.cat([doubled[0], maps[0]], 1)))


def test_the_path_up_sees_the_map_below_and_what_was_handed_down() -> None:
    neck = PAFPN(WIDTHS).eval()
    maps = inputs()[0]
    fine, middle, coarse = neck.down(*maps)
    first, second, third = neck(*maps)
    torch.testing.assert_close(first, fine)
    torch.testing.assert_close(second, neck.mix_middle(torch.cat([neck.to_middle(fine), middle], 1)))
    torch.testing.assert_close(third, neck.mix_coarse(torch.cat([neck.to_coarse(second), coarse], 1)))


def test_the_masks_are_read_from_the_second_neck() -> None:
    head = make("masks").eval()
    assert isinstance(head, MaskHead)
    maps, words, mask = inputs()
    logits = head.pyramid(head.second_neck(*head.neck(*maps))[0])
    enlarged = F.interpolate(logits, size=(SIDE, SIDE), mode="bilinear")[:, 0]
    torch.testing.assert_close(head(maps, words, mask), enlarged)
    aligned = F.interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=True)[:, 0]
    head.align_corners = True
    torch.testing.assert_close(head(maps, words, mask), aligned)


def test_the_pyramid_sees_near_far_and_the_whole_image() -> None:
    pyramid = ASPP(4).eval()
    x = torch.randn(1, 4, 48, 48)
    moved = x.clone()
    moved[:, :, 24, 24] += 1
    with torch.no_grad():
        changes = [(branch(moved) - branch(x)).abs().amax((0, 1)) > 1e-7 for branch in pyramid.branches]
    for change, step in zip(changes, (0, 6, 12, 18), strict=False):
        seen = {(24 + i * step, 24 + j * step) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        assert {tuple(place) for place in torch.nonzero(change).tolist()} == seen
    assert changes[4].all()
    for branch in (pyramid.branches[0], pyramid.branches[4]):
        assert isinstance(branch, (ConvNormAct, ImageBranch))
        cells = x if branch is pyramid.branches[0] else x.mean((2, 3), keepdim=True).expand_as(x)
        torch.testing.assert_close(branch(x), F.leaky_relu(branch.norm(branch.conv(cells)), 0.1))


# --- the whole-picture branch on one image --------------------------------------------------------------------------


def test_masks_train_on_a_single_image() -> None:
    head = make("masks").train()
    out = head(*inputs(1))
    out.square().sum().backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_the_norm_of_images_is_batch_norm_but_for_a_single_one() -> None:
    torch.manual_seed(0)
    ours, plain = ImageNorm(4), BatchNorm(4)
    several, one = torch.randn(5, 4, 1, 1), torch.randn(1, 4, 1, 1)
    torch.testing.assert_close(ours(several), plain(several))
    assert torch.equal(ours.running_var, plain.running_var)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        plain(one)
    before = copy.deepcopy(ours.state_dict())
    trained = ours(one)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    assert torch.equal(trained, ours.eval()(one))
    assert trained.std() > 0.1  # batch statistics of one value would leave the bias alone


# --- what engines and exporters ask -----------------------------------------------------------------------------------

HEADS = ["points", "masks"]


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("points", {"stride": 8}, (3, 5, 8, 8)),
        ("points", {"stride": 16}, (3, 5, 4, 4)),
        ("points", {"stride": 32}, (3, 5, 2, 2)),
        ("masks", {}, (3, SIDE, SIDE)),
    ],
)
def test_output_and_gradient(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    head = make(name, **options)
    out = head(*inputs())
    assert out.shape == shape
    out.square().sum().backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_an_untrained_point_head_expects_the_referent_in_hardly_any_cell() -> None:
    out = make("points", prior=0.02)(*inputs())
    assert torch.sigmoid(out[:, 4]).mean().item() == pytest.approx(0.02, abs=0.01)
    assert out[:, :4].abs().mean() < 1


@pytest.mark.parametrize("name", HEADS)
def test_a_permuted_batch_gives_permuted_outputs(name: str) -> None:
    head, (maps, words, mask) = settled(make(name)), inputs()
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        expected = head(maps, words, mask)
        found = head([m[order] for m in maps], words[order], mask[order])
    assert not torch.allclose(expected[0], expected[2], atol=1e-3)
    torch.testing.assert_close(found, expected[order])


@pytest.mark.parametrize("name", HEADS)
def test_cast_to_bfloat16_stays_near(name: str) -> None:
    head, (maps, words, mask) = settled(make(name)), inputs()
    with torch.no_grad():
        exact = head(maps, words, mask)
        found = head.bfloat16()([m.bfloat16() for m in maps], words.bfloat16(), mask)
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).norm() / exact.norm() < 0.05
    head.train()([m[:1].bfloat16() for m in maps], words[:1].bfloat16(), mask[:1]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_exports(name: str) -> None:
    head, arguments = settled(make(name)), inputs()
    batch = torch.export.Dim("batch", min=1, max=16)
    shapes = ([{0: batch}] * 3, {0: batch}, {0: batch})
    exported = torch.export.export(head, arguments, dynamic_shapes=shapes).module()
    for count in (3, 5):
        other = inputs(count)
        with torch.no_grad():
            torch.testing.assert_close(exported(*other), head(*other))


def near(found: Tensor | None, expected: Tensor | None) -> bool:
    assert found is not None
    assert expected is not None
    return bool((found - expected).norm() <= 1e-3 * expected.norm())


@pytest.mark.parametrize("name", HEADS)
def test_compiles_without_a_break_in_training(name: str) -> None:
    head, (maps, words, mask) = make(name).train(), inputs()
    # Tracing takes long: of the masks, whose necks are made of what the points have, the part that is their own.
    plain, arguments = (head.pyramid, maps[:1]) if isinstance(head, MaskHead) else (head, (maps, words, mask))
    other = copy.deepcopy(plain)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    expected, found = plain(*arguments), compiled(*arguments)
    torch.testing.assert_close(found, expected)
    expected.square().mean().backward()
    found.square().mean().backward()
    gradients = {of: parameter.grad for of, parameter in other.named_parameters()}
    for of, parameter in plain.named_parameters():
        assert near(gradients[of], parameter.grad), of


@pytest.mark.parametrize(("task", "shape"), [("rec", (2, 5, 2, 2)), ("res", (2, 64, 64)), ("grec", (2, 64, 64))])
def test_inside_the_model(task: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(preset="tiny", task=task, head="points" if task == "rec" else None), 30)
    assert isinstance(model, Model)
    assert model(torch.rand(2, 3, 64, 64), torch.tensor([[5, 6, 0], [7, 8, 9]])).shape == shape


@pytest.mark.parametrize(
    ("key", "value", "options"),
    [("stride", "4", {"stride": 4}), ("prior", "0", {"prior": 0}), ("prior", "1.0", {"prior": 1.0})],
)
def test_a_config_that_cannot_be_built_is_named(key: str, value: str, options: dict[str, Any]) -> None:
    config = ModelConfig(preset="tiny", head="points", heads=HeadsConfig(points=PointHeadConfig(**options)))
    with pytest.raises(ConfigError, match=rf"^model\.heads\.points\.{key}: .* got {value}$"):
        build_model(config, 30)
