"""A folder for a model hub: read again by `load`, its card by the Hub's own package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import laconvnet
from laconvnet.launch import cli
from laconvnet.pipeline.inference import hub


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (trained / "eval").mkdir(exist_ok=True)
    (trained / "eval" / "refcoco-train.json").write_text((trained / "seen.json").read_text())
    out = tmp_path_factory.mktemp("hub") / "laconvnet-refcoco"
    assert cli.main(["export", str(trained), "--format", "hub", "--out", str(out), "--json"]) == 0
    return out


def test_the_folder_is_loaded_and_answers_as_the_run(trained: Path, folder: Path, images: list[Path]) -> None:
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    texts = ["the red circle", "the lowest one"]
    expected = [answer.box for answer in laconvnet.load(trained)(images[0], texts)]
    assert [answer.box for answer in laconvnet.load(folder)(images[0], texts)] == expected


def test_the_card_is_one_of_the_hub_and_tells_the_score(trained: Path, folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "laconvnet"
    assert card.data.pipeline_tag == "zero-shot-object-detection"
    scored = json.loads((trained / "seen.json").read_text())
    assert f"| refcoco | train | acc@0.5 | {100 * scored['acc@0.5']:.1f} |" in card.text
    assert 'laconvnet.load("laconvnet-refcoco")' in card.text
    config = json.loads((folder / "config.json").read_text())
    assert (config["task"], config["step"]) == ("rec", scored["step"])
    assert config["configuration"]["data"]["size"] == 96


def test_scores_of_another_step_are_not_told() -> None:
    facts = {"task": "vqa", "step": "7"}
    scored = [{"step": 6, "split": "val", "source": "clevr", "accuracy": 0.5}]
    assert "accuracy" not in hub.card("name", facts, scored)
    assert "| clevr | val | accuracy | 50.0 |" in hub.card("name", facts, [scored[0] | {"step": 7}])


def test_a_folder_that_holds_something_is_left_alone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    assert cli.main(["export", str(trained), "--format", "hub", "--out", str(tmp_path)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
