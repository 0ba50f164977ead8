"""A trained model, what `eval` answers with it, and the images as files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from laconvnet.shards.format.manifest import Manifest
from tests.pipeline.training.ranks import run

TINY = Path(__file__).parents[1] / "training" / "tiny.yaml"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the process that has trained and scored: other numbers of threads round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory, sets: dict[str, Path]) -> Path:
    """A run at a size that its images have to be scaled to, scored on its training split, and exported."""
    folder = tmp_path_factory.mktemp("asked") / "run"
    of_data = ["--data.folder", str(sets["refcoco"]), "--data.size", "96"]
    commands = [
        ["train", "--run", str(folder), "--config", str(TINY), *of_data, "--schedule.epochs", "3"],
        ["eval", str(folder), "--data", str(sets["refcoco"]), "--split", "train", "--out", f"{folder}/seen.json"],
        ["export", str(folder), "--format", "safetensors", "--out", f"{folder}/model.safetensors"],
    ]
    script = "\n".join(["from laconvnet.launch import cli", *(f"assert not cli.main({words!r})" for words in commands)])
    run(1, ["-c", script])
    return folder


@pytest.fixture(scope="package")
def seen(trained: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (trained / "seen.answers.jsonl").read_text().splitlines()]


@pytest.fixture(scope="package")
def images(trained: Path, sets: dict[str, Path], seen: list[dict[str, Any]], tmp_path_factory: Any) -> list[Path]:
    """The file of each answer's image."""
    folder, manifest = tmp_path_factory.mktemp("images"), Manifest.open(sets["refcoco"])
    for sample in {answer["sample"] for answer in seen}:
        (folder / f"{sample}.jpg").write_bytes(manifest.read_image(sample))
    return [folder / f"{answer['sample']}.jpg" for answer in seen]
