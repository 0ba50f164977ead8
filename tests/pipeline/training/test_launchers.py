"""Several processes by torchrun and accelerate, started by the lines that the command's own help advises."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from laconvnet.launch import cli
from laconvnet.pipeline import distributed
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.training.engine import keep_out_launchers_settings

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BIN = Path(sys.executable).parent
SHORT = ("--schedule.epochs", "0.1", "--schedule.warmup", "0.05")
LAUNCHERS = {"torchrun": "--nproc-per-node", "accelerate": "--num_processes"}

pytestmark = pytest.mark.skipif(not (BIN / "laconvnet").exists(), reason="laconvnet is not installed here")


def advised(launcher: str, command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The line of the help of `command` that begins with this launcher, up to the command's own arguments."""
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.strip().startswith(launcher))
    words = shlex.split(line)
    words = words[: words.index(command) + 1]
    assert words[words.index(LAUNCHERS[launcher]) + 1].isdigit()
    words[words.index(LAUNCHERS[launcher]) + 1] = "2"
    return words


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    paths = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=ROOT, env=os.environ | paths, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_advised_line_trains_one_run_on_two_processes(
    launcher: str, tmp_path: Path, refcoco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [
        "--run",
        str(tmp_path / "run"),
        "--data.folder",
        str(refcoco),
        "--schedule.epochs",
        "0.1",
        "--schedule.warmup",
        "0.05",
    ]
    extra = ["--mixed_precision", "fp16"] if launcher == "accelerate" else []
    words = advised(launcher, "train", capsys)
    place = words.index(LAUNCHERS[launcher])
    words[place:place] = extra
    done = run([*words, "--config", str(HERE / "tiny.yaml"), *keys])
    assert done.returncode == 0, done.stderr
    assert "on 2 process(es)" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == rows[-1]["steps"]
    assert len({row["step"] for row in rows}) == len(rows), "one process alone writes the log"
    if extra:
        assert "engine" in done.stderr
        assert "ACCELERATE_MIXED_PRECISION=fp16" in done.stderr
        assert rows[-1]["loss_scale"] is None, "the configuration says how a run is computed"


def test_a_truncated_shard_that_one_process_sees_ends_the_other(
    tmp_path: Path, refcoco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(refcoco, folder)
    shard = sorted(folder.glob("shard-*.tar"))[-1]
    os.truncate(shard, 600)
    words = advised("torchrun", "train", capsys)
    keys = ["--run", str(tmp_path / "run"), "--data.folder", str(folder), *SHORT]
    done = run([*words, "--config", str(HERE / "tiny.yaml"), *keys])
    assert done.returncode != 0
    assert done.stderr.count(f"{shard}: shard of 600 bytes") == 1, "one of two looked"
    assert not (tmp_path / "run").exists()


def test_eval_is_advised_the_same_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert advised("torchrun", "eval", capsys)[:-1] == advised("torchrun", "train", capsys)[:-1]


def test_what_accelerate_launch_sets_is_taken_back_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ACCELERATE_USE_CPU left in place, as `accelerate launch --cpu` sets it, DeepSpeed's engine is replaced."""
    monkeypatch.delenv("RANK", raising=False)
    for name, value in {"USE_CPU": "True", "MIXED_PRECISION": "no", "DYNAMO_BACKEND": "NO"}.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    keep_out_launchers_settings()
    assert not [name for name in os.environ if name.startswith("ACCELERATE_")]
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "ACCELERATE_USE_CPU=True" in output
    assert "MIXED_PRECISION" not in output
    assert "DYNAMO" not in output
    keep_out_launchers_settings()
    assert capsys.readouterr().err == ""


def test_a_bare_srun_of_several_tasks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(ConfigError, match=r"4 tasks.*torchrun"), distributed.joined():
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert distributed.world() == 1
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert distributed.world() == 1
