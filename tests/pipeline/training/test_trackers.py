"""TensorBoard, wandb and MLflow, really started: what they keep of a run that was killed and went on."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.training import curves, trackers
from laconvnet.pipeline.training.curves import Curves
from laconvnet.pipeline.training.log_config import LogConfig
from tests.pipeline.training.ranks import run
from tests.runs import losses
from tests.without import without

HERE = Path(__file__).parent
ALL = ["--log.trackers", "[tensorboard, wandb, mlflow]", "--log.project", "grounding"]
KEYS = ["--schedule.epochs", "1.2", "--validate.every", "1.2", "--validate.examples", "3"]
WITHOUT = f"""
{without("wandb")}
from laconvnet.launch import cli
sys.exit(cli.main(sys.argv[1:]))
"""
NOWHERE = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def command(folder: Path, refcoco: Path, *keys: str) -> list[str]:
    return ["train", "--run", str(folder), "--config", str(HERE / "tiny.yaml"), "--data.folder", str(refcoco), *keys]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> Path:
    """A run that was killed as it began step 7, and went on from the checkpoint of step 4, to step 10."""
    folder = tmp_path_factory.mktemp("tracked") / "run"
    arguments = [str(HERE / "watched.py"), *command(folder, refcoco, *ALL, *KEYS)]
    surroundings = {"WATCHED": str(folder.parent), "WANDB_MODE": "offline"}
    run(1, arguments, -9, STOP_AFTER="7:SIGKILL", **surroundings)
    run(1, arguments, 0, **surroundings)
    return folder


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(HERE / "told.py"), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def test_wandb_goes_on_in_one_run_offline(folder: Path, told: dict[str, Any]) -> None:
    """What it had in memory as the first start was killed (it writes each quarter of a minute) is in log.jsonl only."""
    first, second = told["wandb"]
    assert first["id"] == second["id"] == json.loads((folder / "trackers.json").read_text())["wandb"]["id"]
    assert second["project"] == "grounding"
    assert "exit" not in first
    assert second["exit"] == 0
    points = {point["step"]: point["loss"] for point in second["points"] if "loss" in point}
    assert points == {step: values[0] for step, values in losses(folder).items() if step > 4}
    assert [point["step"] for point in second["points"] if "val/acc@0.5" in point] == [10]
    assert second["pictures"] == 3


def test_mlflow_goes_on_in_one_run_of_its_file_store(folder: Path, told: dict[str, Any]) -> None:
    (found,) = told["mlflow"]
    assert found["id"] == json.loads((folder / "trackers.json").read_text())["mlflow"]["id"]
    assert found["status"] == "FINISHED"
    assert dict(found["points"]["loss"]) == {step: values[0] for step, values in losses(folder).items()}
    assert [step for step, _ in found["points"]["val/acc_0.5"]] == [10], "an @ it does not take"
    assert found["pictures"] == 3


def test_tensorboard_drops_what_is_done_again(folder: Path, told: dict[str, Any]) -> None:
    found = told["tensorboard"]
    assert [step for step, _ in found["points"]["loss"]] == list(range(1, 11))
    assert found["pictures"] == 3
    assert "configuration/text_summary" in found["texts"]


def test_each_is_told_the_same(folder: Path, told: dict[str, Any]) -> None:
    """All terms and measures of a row of the log, and what the run is: configuration and fingerprints."""
    row = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    left_out = {"version", "step", "steps", "kernels", "eta_s", "time"}
    curves = {name for name, value in row.items() if value is not None} - left_out
    assert {"loss", "grad_norm", "lr", "samples_per_s", "data_wait", "memory_mb"} <= curves
    validated = {"val/acc@0.5", "val/miou"}
    assert set(told["tensorboard"]["points"]) == curves | validated
    assert set(told["mlflow"][0]["points"]) == curves | {"val/acc_0.5", "val/miou"}
    points = told["wandb"][1]["points"]
    assert {name for point in points for name in point} >= curves | validated
    configuration = yaml.safe_load((folder / "config.yaml").read_text())
    commit = json.loads((folder / "checkpoints/step-00000010/COMMIT").read_text())
    for facts in (told["wandb"][1]["facts"], told["mlflow"][0]["facts"]):
        assert str(facts["optimizer.lr"]) == str(configuration["optimizer"]["lr"])
        assert facts["model.preset"] == "tiny"
        assert facts["fingerprint.data"] == commit["data"]
        assert facts["fingerprint.configuration"] == commit["config"]
        assert facts["fingerprint.code"] == commit["code"]


def test_one_that_cannot_begin_ends_the_run_before_its_first_step(refcoco: Path, tmp_path: Path) -> None:
    alone = command(tmp_path / "alone", refcoco, "--log.trackers", "[wandb]")
    for arguments, environment, words in (
        (["-c", WITHOUT, *alone], {}, ("'wandb': it is not installed", "laconvnet[trackers]")),
        (
            ["-m", "laconvnet.launch.cli", *alone],
            {"WANDB_MODE": "online", "NETRC": str(tmp_path / "netrc")},
            ("wandb login",),
        ),
        (
            ["-m", "laconvnet.launch.cli", *command(tmp_path / "other", refcoco, "--log.trackers", "[mlflow]")],
            NOWHERE,
            ("log.trackers: mlflow:", "MLFLOW_TRACKING_URI"),
        ),
    ):
        (output,) = run(1, arguments, 2, **environment)
        assert "Traceback" not in output
        assert all(word in output.splitlines()[-1] for word in words), output
    assert not list(tmp_path.glob("*/checkpoints/*"))
    assert not (tmp_path / "alone/trackers.json").exists()


def test_a_run_goes_on_without_one_that_is_gone(refcoco: Path, tmp_path: Path) -> None:
    """What a run that SLURM starts again at night needs."""
    folder, keys = tmp_path / "run", ("--schedule.epochs", "1.2", "--log.trackers", "[mlflow]")
    arguments = [str(HERE / "watched.py"), *command(folder, refcoco, *keys)]
    run(1, arguments, -9, STOP_AFTER="7:SIGKILL", WATCHED=str(tmp_path))
    kept = (folder / "trackers.json").read_text()
    (output,) = run(1, arguments, 0, WATCHED=str(tmp_path), **NOWHERE)
    (line,) = [line for line in output.splitlines() if line.startswith("log.trackers: mlflow:")]
    assert "its curves end here" in line
    assert max(losses(folder)) == 10
    assert (folder / "trackers.json").read_text() == kept


class Kept:
    """A tracker that keeps what it is given; tests put other methods in their place."""

    def __init__(self, begun: trackers.Begun) -> None:
        self.steps: list[int] = []
        self.failed: bool | None = None
        self.url = str(begun.known.get("url", "none yet"))
        MADE.append(self)

    def join(self) -> trackers.Known:
        return {"url": f"{self.url}, again"}

    def curve(self, values: dict[str, float], step: int) -> None:
        self.steps.append(step)

    def end(self, failed: bool) -> None:
        self.failed = failed


MADE: list[Kept] = []


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    monkeypatch.setattr(trackers, "TRACKERS", {"tensorboard": Kept, "mlflow": Kept})
    MADE.clear()
    return MADE


def test_one_that_fails_leaves_the_others(tmp_path: Path, kept: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    drawn = Curves(LogConfig(trackers=("tensorboard", "mlflow")), tmp_path, 0, {})
    kept[0].curve = lambda values, step: (_ for _ in ()).throw(RuntimeError("no\nroom"))
    for step in (1, 2, 3):
        drawn.add({"loss": 0.5}, step)
    drawn.end(failed=True)
    assert kept[1].steps == [1, 2, 3]
    assert kept[1].failed is True
    assert kept[0].failed is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("log.trackers: tensorboard: RuntimeError: no\\nroom; its curves end here")


def test_a_slow_one_holds_nothing_up(
    tmp_path: Path, kept: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "WAITING", 5)
    monkeypatch.setattr(curves, "LAST_SECONDS", 0.1)
    drawn = Curves(LogConfig(trackers=("tensorboard",)), tmp_path, 0, {})
    held = threading.Event()
    kept[0].curve = lambda values, step: held.wait()
    for step in range(20):
        drawn.add({"loss": 0.5}, step)
    drawn.end(failed=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert "5 points wait for it" in line
    late = Curves(LogConfig(trackers=("mlflow",)), tmp_path, 0, {})
    kept[1].curve = lambda values, step: held.wait()
    late.add({"loss": 0.5}, 1)
    late.end(failed=False)
    assert "has not taken its last points" in capsys.readouterr().err
    held.set()


def test_a_tracker_is_told_what_it_kept(tmp_path: Path, kept: list[Any]) -> None:
    config = LogConfig(trackers=("mlflow",))
    for url in ("none yet, again", "none yet, again, again"):
        Curves(config, tmp_path, 0, {}).end(failed=False)
        assert json.loads((tmp_path / "trackers.json").read_text()) == {"mlflow": {"url": url}}
    (tmp_path / "trackers.json").write_text('{"mlflow": 3')
    Curves(config, tmp_path, 0, {}).end(failed=False)
    assert kept[-1].url == "none yet"


@pytest.mark.parametrize("keys", [{"every": 0}, {"console": 0}, {"trackers": ("wandb", "wandb")}, {"project": " "}])
def test_what_cannot_be_meant_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"log.{next(iter(keys))}: "):
        LogConfig(**keys)


def test_status_lines_are_fewer_than_rows(refcoco: Path, tmp_path: Path) -> None:
    keys = ("--schedule.epochs", "1.2", "--log.every", "2", "--log.console", "5", "--log.trackers", "[]")
    (output,) = run(1, ["-m", "laconvnet.launch.cli", *command(tmp_path / "run", refcoco, *keys)])
    rows = [json.loads(line)["step"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert rows == [2, 4, 6, 8, 10]
    lines = [line.split()[1] for line in output.splitlines() if line.startswith("step ")]
    assert lines == ["6/10", "10/10"]
    assert not (tmp_path / "run/trackers.json").exists()
