"""A run whose network is not the preset's, `model.conditions` and `model.packing` given: all that is done with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from laconvnet.launch import cli
from laconvnet.pipeline.inference.restore import restore
from laconvnet.pipeline.model.net import PRESETS
from laconvnet.pipeline.runs import checkpoints, resumable
from laconvnet.pipeline.runs.layout import CONFIG
from laconvnet.pipeline.training import checkpoint
from tests.pipeline.training.ranks import train

TINY = Path(__file__).parent / "tiny.yaml"
CONDITIONS, PACKING = (16, 64, 64, 96, 128), (2, 2, 1, 1, 1)
GIVEN = ["--model.conditions", str(list(CONDITIONS)), "--model.packing", str(list(PACKING))]
QUERY = "visual.stages.1.blocks.0.generator.affinity.query.weight"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> Path:
    place = tmp_path_factory.mktemp("runs") / "run"
    train(1, place, ["--config", str(TINY), "--data.folder", str(refcoco), "--schedule.epochs", "0.3", *GIVEN])
    return place


def test_what_reads_the_run_builds_its_network(
    run: Path, refcoco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    restored = restore(run)
    net = restored.config.model.net()
    assert (net.conditions, net.packing) == (CONDITIONS, PACKING)
    assert restored.model.get_parameter(QUERY).shape == (64, 24 * 2**2, 1, 1)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    image = ["--image", str(tmp_path / "red.png"), "--text", "the red one", "--out", str(tmp_path / "answer.png")]
    for command in (
        ["eval", str(run), "--data", str(refcoco), "--split", "testA", "--out", str(tmp_path / "testA.json")],
        ["predict", str(run), *image],
        ["export", str(run), "--format", "safetensors", "--out", str(tmp_path / "model.safetensors")],
        ["report", str(run), "--out", str(tmp_path / "report.html")],
    ):
        assert cli.main(command) == 0, command
    assert json.loads((tmp_path / "testA.json").read_text())["examples"] > 0
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.get_tensor(QUERY).shape == (64, 24 * 2**2, 1, 1)
        assert yaml.safe_load(file.metadata()["config"])["model"]["conditions"] == list(CONDITIONS)
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"conditions:\s+- 16\s+- 64", page), "the report shows the configuration in full"
    capsys.readouterr()


def test_its_costs_are_those_of_the_network(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cost(*keys: str) -> dict[str, int]:
        assert cli.main(["model", "info", "--json", "--vocabulary", "50", *keys]) == 0
        costs: dict[str, int] = json.loads(capsys.readouterr().out)
        return costs

    own = cost("--config", str(run / CONFIG))
    typed = cost("--config", str(TINY), *GIVEN)
    preset = cost("--config", str(TINY))
    assert own == typed
    assert own["params"] != preset["params"]
    widths = list(PRESETS["tiny"].conditions)
    assert cost("--config", str(TINY), "--model.conditions", str(widths)) == preset


def test_a_finetune_on_the_presets_network_is_refused(run: Path, refcoco: Path, tmp_path: Path) -> None:
    keys = ["--config", str(TINY), "--data.folder", str(refcoco), "--init_from", str(run)]
    (output,) = train(1, tmp_path / "next", keys, expected=2)
    assert "init_from" in output
    assert "has shape" in output


def test_a_run_from_before_the_key_resumes_to_the_same_weights(tmp_path: Path, refcoco: Path) -> None:
    """Its config.yaml does not have the key: nothing else of the run may depend on it."""
    keys = ["--config", str(TINY), "--data.folder", str(refcoco), "--schedule.epochs", "0.3"]
    place = tmp_path / "run"
    train(1, place, [*keys, "--checkpoint.every", "1", "--checkpoint.keep", "9"])
    whole, _ = checkpoint.read(checkpoints.resolve(place))
    file = place / CONFIG
    tree = yaml.safe_load(file.read_text())
    del tree["model"]["conditions"]
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    for marker in (place / "checkpoints").glob("*/COMMIT"):
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"config": resumable.seal(file)}))
    for step in range(2, whole["step"] + 1):
        (checkpoint.folder_of(place, step) / "COMMIT").unlink()
    (output,) = train(1, place, [*keys, *GIVEN], expected=2)
    assert "is asked for" in output
    (output,) = train(1, place, keys)
    assert "resuming" in output
    again, _ = checkpoint.read(checkpoints.resolve(place))
    assert again["step"] == whole["step"] > 1
    assert all(torch.equal(again["model"][name], tensor) for name, tensor in whole["model"].items())
