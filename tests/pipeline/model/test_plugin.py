"""Six LaConv layers over a backbone: shapes, words, training, and weights at the very first start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import HeadsConfig, Model, ModelConfig, build_model
from laconvnet.pipeline.model.backbones import BACKBONES, Backbone
from laconvnet.pipeline.model.backbones.csp_darknet import CspDarkNet
from laconvnet.pipeline.model.backbones.resnet import ResNet
from laconvnet.pipeline.model.blocks.laconv import LaConvBlock
from laconvnet.pipeline.model.cost import cost
from laconvnet.pipeline.model.heads.anchors import AnchorHeadConfig
from laconvnet.pipeline.model.plugin import PlugIn, PlugInStage
from laconvnet.pipeline.model.recompute import recomputed
from laconvnet.pipeline.training import checkpoint
from laconvnet.pipeline.training.start import start

TINY = Path(__file__).parents[1] / "training" / "tiny.yaml"
REC = ModelConfig(
    preset="tiny",
    backbone="small",
    head="anchors",
    heads=HeadsConfig(anchors=AnchorHeadConfig(stride=8, sizes=((12, 12), (20, 20)))),
)
SMALL: dict[str, Callable[[], Backbone]] = {
    "small": lambda: ResNet("bottleneck", (1, 1, 1, 1), width=4),
    "small_csp": lambda: CspDarkNet((1, 1, 1, 1, 1), width=4),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, made in SMALL.items():
        monkeypatch.setitem(BACKBONES, name, made)


def make(config: ModelConfig = REC) -> Model:
    torch.manual_seed(0)
    return build_model(config, vocabulary_size=30, answers=7)


def backbone_of(model: Model) -> Backbone:
    assert isinstance(model.visual, PlugIn)
    return model.visual.backbone


def stages_of(model: Model) -> list[PlugInStage]:
    assert isinstance(model.visual, PlugIn)
    return [stage for stage in model.visual.stages if isinstance(stage, PlugInStage)]


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(2, 3, 64, 64), torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0]])


@pytest.mark.parametrize("backbone", ["resnet34", "resnet101", "csp_darknet53"])
def test_rec_and_vqa_models(backbone: str) -> None:
    with torch.device("meta"):
        images, tokens = torch.empty(1, 3, 96, 64), torch.ones(1, 4, dtype=torch.int64)
        rec = build_model(ModelConfig(backbone=backbone, head="anchors"), 30).eval()
        words, mask = rec.language(tokens)
        maps = rec.visual(images, words, mask)
        assert rec.head(maps, words, mask).shape == (1, 3, 5, 3, 2)
        vqa = build_model(ModelConfig(backbone=backbone, task="vqa"), 30, answers=28).eval()
        assert vqa(images, tokens).shape == (1, 28)
    assert [tuple(x.shape) for x in maps] == [(1, 128, 12, 8), (1, 256, 6, 4), (1, 512, 3, 2)]
    blocks = [made.config for made in rec.modules() if isinstance(made, LaConvBlock)]
    found = [(made.dim, made.condition, made.groups, made.packing, made.kernel_size) for made in blocks]
    stages = [(128, 128, 8, 2, 7), (256, 256, 8, 1, 7), (512, 512, 16, 1, 7)]
    assert found == [stage for stage in stages for _ in range(2)]


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("task", ["rec", "vqa"])
def test_it_trains(task: str, backbone: str) -> None:
    model = make(replace(REC, task=task, backbone=backbone, head="anchors" if task == "rec" else None))
    images, tokens = batch()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(6):
        loss = (model(images, tokens) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_gradient_reaches_every_parameter() -> None:
    model = make()
    model(*batch()).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_recomputed_blocks_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def noted(block: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        calls.append(block)
        return recomputed(block, *inputs)

    monkeypatch.setattr("laconvnet.pipeline.model.net.recomputed", noted)
    gradients = []
    for again in (False, True):
        model = make()
        for stage in stages_of(model):
            stage.recompute = again
        torch.manual_seed(3)
        model(*batch()).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert len(calls) == 6
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_words_matter_to_every_map_and_not_to_the_backbone() -> None:
    model = make().eval()
    images, tokens = batch()
    with torch.no_grad():
        one, other = (model.visual(images, *model.language(t)) for t in (tokens, tokens.flip(0)))
        assert all((a - b).abs().max() > 0 for a, b in zip(one, other, strict=True))
        longer = torch.cat([tokens, torch.zeros(2, 3, dtype=torch.int64)], 1)
        for a, b in zip(one, model.visual(images, *model.language(longer)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_what_a_fine_map_found_goes_on_to_the_coarser_ones() -> None:
    model = make().eval()
    images, tokens = batch()
    with torch.no_grad():
        words, mask = model.language(tokens)
        before = model.visual(images, words, mask)
        stages_of(model)[1].project.norm.bias.add_(1.0)
        after = model.visual(images, words, mask)
    assert torch.equal(before[0], after[0])
    assert all((a - b).abs().max() > 0 for a, b in zip(before[1:], after[1:], strict=True))


def test_its_cost_is_that_of_its_parts() -> None:
    """At 224, against the formulas of the LaConv block with 15 words; ResNet-34 as in test_backbones."""
    with torch.device("meta"):
        model = build_model(ModelConfig(backbone="resnet34", head="anchors"), 1000)
    params, macs = 21_284_672, 3_663_249_408
    for cells, d, g, s in ((28 * 28, 128, 8, 2), (14 * 14, 256, 8, 1), (7 * 7, 512, 16, 1)):
        k, c, words = 7, d, 512
        params += d * d + 2 * d  # the projection, from as many channels
        macs += cells * d * d
        if d > 128:
            params += d // 2 * d + d  # the change of stage
            macs += cells * d // 2 * d
        params += 2 * (
            (d * s**2 * c + c) + 2 * (words * c + c) + (c**2 * s**2 + c * s**2) + 2 * c
            + (c * k**2 * g + k**2 * g) + 2 * d + (8 * d**2 + 10 * d)
        )  # fmt: skip
        of_words = 2 * 15 * words * c + 2 * 15 * c * cells // s**2
        macs += 2 * (of_words + cells * (d * c + c * c + c * k**2 * g + d * k**2 + 8 * d**2))
    assert cost(model, 224)["parts"]["visual"] == {"params": params, "macs": macs}


def test_sides_must_divide_by_32() -> None:
    with pytest.raises(ConfigError, match=r"size: .*32, got 64 x 48"):
        make()(torch.zeros(1, 3, 64, 48), torch.ones(1, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(REC, backbone="vgg16"), r"^model\.backbone: expected one of resnet34 .*, got 'vgg16'$"),
        (replace(REC, backbone=None, backbone_weights="a.pth"), r"^model\.backbone_weights: a\.pth: there is no backb"),
    ],
)
def test_mistakes_are_named(config: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.check()
    with pytest.raises(ConfigError, match=message):
        make(config)


@pytest.fixture
def pretrained(sets: dict[str, Path], tmp_path: Path) -> tuple[TrainConfig, Backbone]:
    """A configuration with a file of pretrained weights, and what is in the file."""
    torch.manual_seed(7)
    backbone = SMALL["small"]()
    torch.save({**backbone.state_dict(), "fc.weight": torch.zeros(10, 128)}, tmp_path / "resnet.pth")
    keys = ["--data.folder", str(sets["refcoco"]), "--model.backbone", "small"]
    keys += ["--model.backbone_weights", str(tmp_path / "resnet.pth")]
    return configuration.load(TINY, keys), backbone


def test_a_new_run_starts_with_the_weights_and_a_resumed_one_does_not_read_them(
    pretrained: tuple[TrainConfig, Backbone], tmp_path: Path
) -> None:
    config, backbone = pretrained
    examples = Examples.open(Path(config.data.folder), "expression", "train")
    started = start(config, None, examples)
    held = backbone_of(started.model).state_dict()
    assert all(torch.equal(held[name], value) for name, value in backbone.state_dict().items())
    assert started.summary.endswith(f" from {tmp_path / 'resnet.pth'}, without fc.weight")
    (tmp_path / "resnet.pth").unlink()
    with pytest.raises(ConfigError, match=r"model\.backbone_weights: .*resnet\.pth: cannot be read"):
        start(config, None, examples)
    weights = {name: torch.full_like(value, 2) for name, value in started.model.state_dict().items()}
    state = {"step": 3, "task": "rec", "data": examples.fingerprint, "model": weights, "moments": {}, "ema": None}
    state |= {"updates": 3, "loss_scale": None}
    own = checkpoint.folder_of(tmp_path / "run", 3)
    checkpoint.save(own, state, started.vocabulary.to_json())
    resumed = start(config, checkpoint.Saved.read(own), examples)
    assert all((value == 2).all() for value in backbone_of(resumed.model).state_dict().values())
    # A later stage inherits the trained backbone: it does not ask for the file either.
    inherited = start(replace(config, init_from=str(tmp_path / "run")), None, examples)
    assert (backbone_of(inherited.model).state_dict()["conv1.weight"] == 2).all()
