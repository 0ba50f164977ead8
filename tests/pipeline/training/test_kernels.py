"""`engine.kernels`: which LaConv a run trains with; it stops before its first step where that cannot be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.training.engine import EngineConfig
from tests.pipeline.training.ranks import run

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
TINY = ["--config", str(Path(__file__).parent / "tiny.yaml"), "--schedule.epochs", "0.5", "--log.every", "1"]
COMMAND = ["-m", "laconvnet.launch.cli"]
# The command line, of which the last process finds neither a compiler nor a library.
WITHOUT = """
import os
if os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
    os.environ.update(CXX="no-such-compiler", LACONVNET_KERNEL_CACHE="{folder}/kernels", TMPDIR="{folder}")
from laconvnet.launch.cli import entry
entry()
"""


def arguments(folder: Path, refcoco: Path, *keys: str) -> list[str]:
    return ["train", "--run", str(folder), *TINY, "--data.folder", str(refcoco), *keys]


def without(tmp_path: Path) -> list[str]:
    return ["-c", WITHOUT.format(folder=tmp_path)]


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("choice", ["require", "plain"])
def test_what_runs_is_reported(choice: str, tmp_path: Path, refcoco: Path) -> None:
    folder, kind = tmp_path / "run", "compiled" if choice == "require" else "plain"
    (output,) = run(1, [*COMMAND, *arguments(folder, refcoco, "--engine.kernels", choice)])
    assert {row["kernels"] for row in rows(folder)} == {kind}
    words = json.loads((folder / "environment.json").read_text())["kernels"]
    assert words in output
    assert ("liblaconv_cpu.so" in words) == (choice == "require")
    assert ("plain PyTorch" in words) == (choice == "plain")


def test_a_run_on_disk_goes_on_in_what_its_machine_has(tmp_path: Path, refcoco: Path) -> None:
    assert EngineConfig().kernels == "auto", "a run of before, whose file does not say it, resumes where there is none"
    (output,) = run(1, [*without(tmp_path), *arguments(tmp_path / "run", refcoco)])
    assert output.count("several times slower") == 2, "a warning, and what runs"
    assert {row["kernels"] for row in rows(tmp_path / "run")} == {"plain"}


def test_one_slow_process_is_reported_by_the_main_one(tmp_path: Path, refcoco: Path) -> None:
    output, _ = run(2, [*without(tmp_path), *arguments(tmp_path / "run", refcoco)])
    assert {row["kernels"] for row in rows(tmp_path / "run")} == {"plain"}
    (line,) = (line for line in output.splitlines() if line.startswith("LaConv runs in "))
    assert "liblaconv_cpu.so" in line
    assert "plain PyTorch" in line


@pytest.mark.parametrize("world", [1, 2])
def test_one_process_without_them_stops_all_before_the_first_step(world: int, tmp_path: Path, refcoco: Path) -> None:
    folder = tmp_path / "run"
    command = [*without(tmp_path), *arguments(folder, refcoco, "--engine.kernels", "require")]
    for output in run(world, command, expected=2):
        (line,) = (line for line in output.splitlines() if line.startswith("laconvnet: "))
        for part in ("engine.kernels: 'require'", "on cpu", "no-such-compiler", "--engine.kernels plain"):
            assert part in line
        assert "Traceback" not in output
    assert not folder.exists()


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_recipe_is_never_slow_in_silence(file: Path) -> None:
    if file.parent.name in ("cluster", "stages") or file.stem == "stages":
        pytest.skip("trains nothing itself")
    assert configuration.load(file, ["--data.folder", "x"]).engine.kernels == "require"
