"""The backbones: the classifiers they are named after, in size, names and what they compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.backbones import BACKBONES, Backbone, load_weights
from laconvnet.pipeline.model.backbones.csp_darknet import ConvBnAct, CrossStage, CspDarkNet
from laconvnet.pipeline.model.backbones.resnet import ResNet


def small(name: str = "basic") -> Backbone:
    torch.manual_seed(0)
    if name == "csp":
        return CspDarkNet((1, 1, 2, 1, 1), width=4)
    return ResNet("bottleneck" if name == "bottleneck" else "basic", (1, 2, 1, 1), width=4)


def on_meta(name: str) -> Backbone:
    with torch.device("meta"):
        return BACKBONES[name]().eval()


@pytest.mark.parametrize(
    ("name", "whole", "classifier", "giga"),
    [
        ("resnet34", 21_797_672, 512 * 1000 + 1000, 3.68),  # v1 Tab. 4b
        ("resnet101", 44_549_160, 2048 * 1000 + 1000, 7.85),
        ("csp_darknet53", 27_642_184, 1024 * 1000 + 1000, 5.00),
    ],
)
def test_parameters_and_multiply_adds(name: str, whole: int, classifier: int, giga: float) -> None:
    made = on_meta(name)
    assert sum(p.numel() for p in made.parameters()) == whole - classifier
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        maps = made(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=0.01)
    sides = (28, 14, 7)
    assert [tuple(x.shape) for x in maps] == [(1, w, s, s) for w, s in zip(made.widths, sides, strict=True)]


@pytest.mark.parametrize(
    ("name", "tensors", "shapes"),
    [
        (
            "resnet34",
            216,
            {
                "conv1.weight": (64, 3, 7, 7),
                "layer2.0.downsample.0.weight": (128, 64, 1, 1),
                "layer2.0.downsample.1.running_var": (128,),
                "layer4.2.bn2.num_batches_tracked": (),
            },
        ),
        (
            "resnet101",
            624,
            {"layer1.0.downsample.0.weight": (256, 64, 1, 1), "layer3.22.conv3.weight": (1024, 256, 1, 1)},
        ),
        (
            "csp_darknet53",
            402,
            {
                "stem.conv1.conv.weight": (32, 3, 3, 3),
                "stages.0.conv_exp.conv.weight": (128, 64, 1, 1),
                "stages.0.blocks.0.conv1.conv.weight": (32, 64, 1, 1),
                "stages.2.blocks.7.conv2.bn.running_mean": (128,),
                "stages.4.conv_transition_b.conv.weight": (512, 512, 1, 1),
                "stages.4.conv_transition.bn.weight": (1024,),
            },
        ),
    ],
)
def test_names_are_those_of_pretrained_files(name: str, tensors: int, shapes: dict[str, tuple[int, ...]]) -> None:
    state = on_meta(name).state_dict()
    assert len(state) == tensors
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


@pytest.mark.parametrize("kind", ["basic", "bottleneck", "csp"])
def test_images_are_normalised_inside(kind: str) -> None:
    made = small(kind).eval()
    torch.manual_seed(1)
    images = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    by_hand = (images - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        for ours, expected in zip(made(images), made.maps(by_hand), strict=True):
            torch.testing.assert_close(ours, expected)
    assert not {"mean", "std"} & made.state_dict().keys()


def test_a_block_is_what_the_resnet_paper_says() -> None:
    """The last block by its own tensors, with the functions of PyTorch alone."""
    made = small("bottleneck").eval()
    seen: dict[str, Tensor] = {}
    last = made.get_submodule("layer4.0")
    last.register_forward_hook(lambda module, inputs, out: seen.update(inputs=inputs[0], out=out))
    with torch.no_grad():
        made(torch.rand(1, 3, 64, 64))
        p = last.state_dict()

        def norm(x: Tensor, name: str) -> Tensor:
            statistics = (p[f"{name}.running_mean"], p[f"{name}.running_var"])
            return nn.functional.batch_norm(x, *statistics, p[f"{name}.weight"], p[f"{name}.bias"])

        x = seen["inputs"]
        out = norm(nn.functional.conv2d(x, p["conv1.weight"]), "bn1").relu()
        out = norm(nn.functional.conv2d(out, p["conv2.weight"], stride=2, padding=1), "bn2").relu()
        out = norm(nn.functional.conv2d(out, p["conv3.weight"]), "bn3")
        past = norm(nn.functional.conv2d(x, p["downsample.0.weight"], stride=2), "downsample.1")
        torch.testing.assert_close(seen["out"], (out + past).relu())


def test_a_cross_stage_lets_half_of_the_channels_pass() -> None:
    made = small("csp").eval()
    stage = made.get_submodule("stages.2")
    assert isinstance(stage, CrossStage)
    with torch.no_grad():
        x = torch.rand(1, 8, 8, 8)
        wide: Tensor = stage.conv_exp(stage.conv_down(x))
        before = stage(x)
        stage.conv_transition_b.bn.weight.zero_()
        stage.conv_transition_b.bn.bias.zero_()
        past_alone = torch.cat([wide[:, :8], torch.zeros_like(wide[:, :8])], 1)
        torch.testing.assert_close(stage(x), stage.conv_transition(past_alone))
        assert (stage(x) - before).abs().max() > 0
    leaky = made.get_submodule("stem.conv1")
    assert isinstance(leaky, ConvBnAct)
    leaky.conv.weight.data.fill_(-1.0)
    torch.testing.assert_close(
        leaky(torch.ones(1, 3, 3, 3))[0, 0, 1, 1], torch.tensor(-0.27 / (1 + 1e-5) ** 0.5)
    )  # slope 0.01


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", ["basic", "csp"])
def test_weights_come_back_from_a_file(kind: str, suffix: str, tmp_path: Path) -> None:
    theirs, ours = small(kind), small(kind)
    for tensor in theirs.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) * 9 + 1)  # in place, the counts of batches as well
    head = "fc.weight" if kind == "basic" else "head.fc.weight"
    state = {**theirs.state_dict(), head: torch.zeros(10, 32)}
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    summary = load_weights(ours, file)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert summary.startswith(f"{len(state) - 1} tensors ")
    assert summary.endswith(f" from {file}, without {head}")


def test_a_file_without_counts_of_batches_is_whole(tmp_path: Path) -> None:
    theirs = small().state_dict()
    torch.save({n: v + 1 for n, v in theirs.items() if "num_batches" not in n}, tmp_path / "old.pth")
    ours = small()
    load_weights(ours, tmp_path / "old.pth")
    assert torch.equal(ours.state_dict()["conv1.weight"], theirs["conv1.weight"] + 1)
    assert ours.state_dict()["bn1.num_batches_tracked"] == 0


def _lacking(state: dict[str, Tensor]) -> object:
    return {name: value for name, value in state.items() if not name.startswith("layer4.0.bn2")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_lacking, r"lacks layer4\.0\.bn2\.weight and 3 more; expected .*model\.backbone"),
        (lambda state: {**state, "layer5.weight": torch.zeros(1)}, r"holds layer5\.weight; expected"),
        (lambda state: {"model": 1, **state}, "is no state dict"),
        (lambda state: {"state_dict": state}, "is no state dict"),
        (
            lambda state: {**state, "layer1.0.conv1.weight": torch.zeros(8, 4, 3, 3)},
            r"layer1\.0\.conv1\.weight .*\(8, 4, 3, 3\), model\.backbone \(4, 4, 3, 3\)",
        ),
        (lambda state: Path("."), r"asks for pathlib\.PosixPath"),  # a class that is not on the list of safe ones
    ],
)
def test_another_file_is_refused_by_name(change: object, message: str, tmp_path: Path) -> None:
    ours = small()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    file = tmp_path / "weights.pth"
    torch.save(change(ours.state_dict()), file)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=rf"^model\.backbone_weights: .*weights\.pth: .*{message}") as error:
        load_weights(ours, file)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"not tensors at all"])
def test_a_file_that_cannot_be_read_is_named(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    broken = "not a whole file of torch.save" if name.endswith(".pth") else "holds no tensors that can be read"
    expected = "cannot be read" if content is None else broken
    with pytest.raises(ConfigError, match=rf"^model\.backbone_weights: .*{name}: {expected}"):
        load_weights(small(), tmp_path / name)
