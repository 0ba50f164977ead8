"""Exported files hold the model that was trained, and all that is needed to use it."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from laconvnet.launch import cli
from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference.export import export
from laconvnet.pipeline.inference.restore import restore
from laconvnet.pipeline.model import build_model
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.runs.layout import CONFIG
from laconvnet.pipeline.training import checkpoint

TINY = Path(__file__).parent / "training" / "tiny.yaml"
WORDS = Vocabulary(("red", "ball", "left"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with one checkpoint, whose averages differ from its weights."""
    config = configuration.load(TINY, ["--data.folder", "x", "--data.size", "64"])
    torch.manual_seed(0)
    model = build_model(config.model, len(WORDS))
    ema_weights = {
        name: tensor + 0.01 if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }
    place = tmp_path / "run"
    place.mkdir()
    (place / CONFIG).write_text(configuration.dump(config))
    state = {"step": 7, "task": "rec", "data": "", "model": model.state_dict(), "moments": {}, "ema": ema_weights}
    checkpoint.save(checkpoint.folder_of(place, 7), state, WORDS.to_json())
    return place


@pytest.mark.parametrize(
    ("kind", "umask"),
    [("safetensors", 0o002), ("safetensors", 0o027), ("onnx", 0o002), ("onnx", 0o027), ("pt2", 0o027)],
)
def test_an_exported_file_is_for_whom_the_umask_says(run: Path, tmp_path: Path, kind: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        export(run, kind, tmp_path / "model")
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o666 & ~umask


def test_safetensors_hold_the_ema_and_how_to_use_it(run: Path, tmp_path: Path) -> None:
    result = export(run, "safetensors", tmp_path / "out" / "model.safetensors")
    assert (result["step"], result["bytes"]) == (7, (tmp_path / "out" / "model.safetensors").stat().st_size)
    state, _ = checkpoint.read(checkpoints.newest(run))  # type: ignore[arg-type]
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        facts = file.metadata()
        assert set(file.keys()) == set(state["ema"])
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in state["ema"].items())
    assert (facts["step"], facts["task"]) == ("7", "rec")
    assert json.loads(facts["vocabulary"])["words"] == ["red", "ball", "left"]
    (tmp_path / "config.yaml").write_text(facts["config"])
    assert configuration.load(tmp_path / "config.yaml") == configuration.load(run / CONFIG)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_a_pt2_with_our_operator_says_what_it_needs_and_answers_as_the_model_does(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    export(run, "pt2", out, operator=True)
    extra = {"vocabulary.txt": "", "step.txt": "", "import.txt": ""}
    program = torch.export.load(out, extra_files=extra)
    assert (extra["step.txt"], extra["import.txt"]) == ("7", "import laconvnet.kernels")
    assert Vocabulary.from_json(extra["vocabulary.txt"]).words == WORDS.words
    assert any(node.target is torch.ops.laconv.laconv.default for node in program.graph.nodes)
    ready = restore(run)
    for count in (1, 3):
        images = torch.rand(count, 3, 64, 64)
        tokens = torch.tensor([[2, 3, *[0] * 10]] * count)
        with torch.no_grad():
            own = ready.task.decoded(ready.model(images, tokens))
        torch.testing.assert_close(program.module()(images, tokens), own, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_exported_is_reported_and_leaves_nothing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--format: 'tflite': expected one of safetensors, pt2, onnx"):
        export(run, "tflite", tmp_path / "x")
    with pytest.raises(ConfigError, match=r"--operator: onnx knows no operators of ours; expected --format pt2"):
        export(run, "onnx", tmp_path / "x", operator=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out: .*cannot be written"):
        export(run, "safetensors", tmp_path / "file" / "x")
    with pytest.raises(ConfigError, match=r"nowhere: no config.yaml in it"):
        export(tmp_path / "nowhere", "safetensors", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["safetensors", "pt2"])
def test_a_file_that_the_disk_does_not_take_is_one_line_and_leaves_nothing(
    run: Path, tmp_path: Path, kind: str
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # as a full disk, but with another word
    try:
        with pytest.raises(ConfigError, match=r"--out: .*cannot be written \(File too large\)"):
            export(run, kind, tmp_path / "out" / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "out").iterdir())


def test_without_onnx_the_command_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert cli.main(["export", str(run), "--format", "onnx", "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err == (
        "laconvnet: --format: onnx: the package onnx is not here; pip install 'laconvnet[onnx]'\n"
    )


@pytest.mark.parametrize(
    ("block", "told"),
    [("qghc", "block qghc, head anchors: .+"), ("group_conv", "block group_conv, head anchors: it does not look at")],
)
def test_a_network_that_onnx_has_no_words_for_is_one_line(run: Path, tmp_path: Path, block: str, told: str) -> None:
    config = configuration.load(run / CONFIG, ["--model.block", block])
    (run / CONFIG).write_text(configuration.dump(config))
    state, _ = checkpoint.read(checkpoints.newest(run))  # type: ignore[arg-type]
    state["ema"] = state["model"] = build_model(config.model, len(WORDS)).state_dict()
    checkpoint.save(checkpoint.folder_of(run, 8), {**state, "step": 8}, WORDS.to_json())
    with pytest.raises(ConfigError, match=rf"^--format: onnx: preset tiny, {told}[^\n]*$"):
        export(run, "onnx", tmp_path / "x")
    assert not (tmp_path / "x").exists()
