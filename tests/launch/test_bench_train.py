"""`laconvnet bench train`: its rows, what is left out and what is kept; the runs it watches are made up here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from laconvnet.launch import cli
from laconvnet.pipeline.bench import rows as row_room
from laconvnet.pipeline.bench import speed, training
from laconvnet.pipeline.bench.ids import row_id
from laconvnet.pipeline.bench.training import Part
from laconvnet.pipeline.model import ModelConfig

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["bench", "train", "--device", "cpu", "--rounds", "2"]


def lines_of(part: Part, place: Path) -> Iterator[dict[str, Any]]:
    """Steps of 10 ms; the loop and steps that save take 1 and 8 more, and memory grows by 4 % an epoch."""
    for step in range(part.lines):
        if part.name == "loop":
            yield {"step": step, "bare": 0.009, "averaged": 0.010, "loop": 0.011}
        elif part.name == "checkpoint":
            saves = step % 10 == 9
            # The step behind is slower as well, for the checkpoint is being written.
            yield {"step": step, "seconds": 0.018 if saves else 0.014 if step % 10 == 0 else 0.010, "saves": saves}
        else:
            yield {"step": step, "resident_mb": 500 if step < part.lines / 2 else 520}
    if part.name == "checkpoint":
        yield {"bytes": 2_000_000}


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Part, "_run", lines_of)


@pytest.mark.usefixtures("made_up")
def test_rows_of_all_parts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    keys = ["--data.batch", "2", "--data.size", "32", "--data.threads", "1"]
    assert cli.main([*COMMAND, "--json", *keys]) == 0
    output = capsys.readouterr()
    table = [json.loads(line) for line in output.out.splitlines()]
    found = {(row["bench"], row["name"]): row for row in table}
    assert [row["bench"] for row in table] == [*["loop"] * 3, *["checkpoint"] * 3, *["memory"] * 2, *["speed"] * 2]
    assert len({row_id(row) for row in table}) == len(table)
    assert {row_id(row).split("/")[0] for row in table} == {"train"}
    over = {key: round(row["over_percent"], 6) for key, row in found.items() if key[0] != "speed"}
    assert over == {
        ("loop", "bare"): -10,
        ("loop", "bare, with averages"): 0,
        ("loop", "loop"): 10,
        ("checkpoint", "step"): 0,
        ("checkpoint", "step that saves"): 80,
        ("checkpoint", "step with all that saving adds"): 120,
        ("memory", "end of the first epoch"): 0,
        ("memory", "end of the second"): 4,
    }
    medians = {(row["bench"], row["name"]): row["median"] for row in table}
    for row in table:
        assert row["ratio"] == pytest.approx(medians[row["bench"], row["baseline"]] / row["median"])
        assert (row["preset"], row["size"]) == ("tiny", 32)
        assert row["device"].endswith("threads")
        assert row["load"] >= 0
        assert set(row["versions"]) == {"python", "torch", "deepspeed", "accelerate", "nvidia-dali-cuda130"}
        assert row["versions"]["torch"] == torch.__version__
    assert found["checkpoint", "step"]["checkpoint_mb"] == 2
    ours = found["speed", "laconv"]
    assert (ours["baseline"], ours["rounds"], ours["pictures"], ours["data"]) == (
        "unfold",
        2,
        2,
        "DALI, cpu, 1 threads",
    )
    assert ours["samples_per_s"] == pytest.approx(1e3 / ours["median"])
    assert ours["step_ms"] == pytest.approx(2 * ours["median"])
    assert 0 <= ours["data_wait"] < 1
    assert (ours["mfu"], ours["peak_mb"]) == (None, None)

    (tmp_path / "rows").write_text(output.out)
    assert cli.main(["bench", "show", str(tmp_path / "rows")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("loop, device ")
    assert "preset tiny, size 32, batch 2, precision fp32, zero 1" in shown[0]
    assert [line.split()[0] for line in shown if line[:1].isalpha() and "device" in line] == [
        "loop,",
        "checkpoint,",
        "memory,",
        "speed,",
    ]
    assert [line.split() for line in shown if line.startswith("loop ")] == [
        ["loop", "0.9091", "11", "0", "10", "0", "10", "10", "20", "-"]
    ]


@pytest.mark.usefixtures("made_up")
def test_the_table_for_people_and_a_part_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, "--part", "memory", "--epoch", "8"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("memory, device")
    assert "batch 4, precision fp32, zero 1, steps 16" in shown[0]
    assert shown[-2].split() == [*["end", "of", "the", "second"], "0.9615", "520", "0", "4", "0", "4", "4", "2", "-"]


def test_what_is_done_stays_when_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(part: Part, place: Path) -> Iterator[dict[str, Any]]:
        if part.name == "memory":
            raise KeyboardInterrupt
        yield from lines_of(part, place)

    monkeypatch.setattr(Part, "_run", interrupted)
    assert cli.main([*COMMAND, "--json"]) == 130
    done = [json.loads(line)["bench"] for line in capsys.readouterr().out.splitlines()]
    assert done == ["loop"] * 3 + ["checkpoint"] * 3
    assert cli.main(COMMAND) == 130
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in shown if ", device " in line] == ["loop", "checkpoint"]


@pytest.mark.usefixtures("made_up")
def test_minutes_end_between_parts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10**6, 60))
    monkeypatch.setattr("laconvnet.launch.commands.bench.options.time.monotonic", lambda: float(next(now)))
    assert cli.main([*COMMAND, "--json", "--minutes", "2.5"]) == 0
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 6
    assert "laconvnet: not begun within 2.5 minutes: memory, speed" in output.err


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(row_room, "_NEEDED", ("torch", "nowhere_to_be_found", "nowhere.at.all"))
    monkeypatch.setattr(speed, "SMALL", speed.Network(ModelConfig("tiny"), 32, 6, 2, "fp32", 1))
    assert cli.main([*COMMAND, "--json"]) == 0
    table = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["bench"], row["note"], row["median"]) for row in table[:3]] == [
        (part, "left out: it needs nowhere_to_be_found, nowhere.at.all", None)
        for part in ("loop", "checkpoint", "memory")
    ]
    assert [(row["name"], row["data"]) for row in table[3:]] == [
        (name, "memory: without nowhere_to_be_found, nowhere.at.all") for name in ("unfold", "laconv")
    ]
    assert all(row["samples_per_s"] > 0 for row in table[3:])
    assert cli.main([*COMMAND, "--data.batch", "4"]) == 2
    assert "a configuration needs nowhere_to_be_found, nowhere.at.all" in capsys.readouterr().err


def test_a_part_that_fails_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(part: Part, place: Path) -> Iterator[dict[str, Any]]:
        if part.name == "loop":
            raise RuntimeError("OSError: no room")
        yield from lines_of(part, place)

    monkeypatch.setattr(Part, "_run", failing)
    assert cli.main([*COMMAND, "--json", "--part", "memory", "loop"]) == 1
    output = capsys.readouterr()
    table = [json.loads(line) for line in output.out.splitlines()]
    assert [(row["bench"], row["note"]) for row in table] == [
        *[("memory", None)] * 2,
        ("loop", "failed: OSError: no room"),
    ]
    assert "laconvnet: 1 rows failed" in output.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "command line: --rounds: 0: expected at least 1"),
        (["--minutes", "nan"], "command line: --minutes: nan: expected more than 0"),
        (["--model.task", "vqa"], "model.task: 'vqa': expected rec"),
        (["--data.batch", "0"], "data.batch: 0: expected at least 1"),
        (["--data.bach", "1"], "data.bach"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "train", "--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_is_taken_in_place_of_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("data: {folder: elsewhere, size: 96, batch: 6}\nmodel: {preset: '10'}\nlog: {every: 7}\n")
    config = training.settings(file, ["--data.batch", "4"], CPU)
    assert (config.model.preset, config.data.size, config.data.batch) == ("10", 96, 4)
    loop, checkpoint, memory = training.parts(config, CPU, 3, 50, ["loop", "checkpoint", "memory"])
    assert (loop.steps, loop.lines) == (4 * 7 + 1, 4 * 7)
    assert loop.config.checkpoint.every > loop.steps
    assert checkpoint.config.checkpoint.every == 10
    assert (memory.steps, memory.config.data.batch, memory.config.schedule.epochs) == (100, 4, 2)
    assert training.settings(None, [], torch.device("cuda")).model.preset == "s"


def on_a_machine_with_little_but_pytorch(*words: str) -> subprocess.CompletedProcess[str]:
    script = """
import sys
GONE = {"deepspeed", "nvidia", "jsonargparse", "pycocotools", "transformers", "submitit", "webdataset", "simplejpeg"}
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
from laconvnet.launch import cli
from laconvnet.pipeline.bench import speed
speed.SMALL = speed.Network(speed.ModelConfig("tiny"), 32, 6, 2, "bf16", 1)
sys.exit(cli.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", script, "bench", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_machine_with_little_but_pytorch() -> None:
    """As GPU machines often are: nothing of what is missing is imported on the way to the rows."""
    done = on_a_machine_with_little_but_pytorch("train", "--device", "cpu", "--quick", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    table = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["bench"] for row in table] == ["loop", "checkpoint", "memory", "speed", "speed"]
    assert table[0]["note"].startswith("left out: it needs deepspeed, nvidia.dali, jsonargparse")
    assert [(row["note"], row["precision"]) for row in table[3:]] == [(None, "bf16")] * 2


@pytest.mark.parametrize("command", ["infer", "bytes"])
def test_what_needs_nothing_but_pytorch(command: str, tmp_path: Path) -> None:
    small = ["--device", "cpu", "--preset", "tiny", "--size", "32", "--batch", "2", "--rounds", "1"]
    done = on_a_machine_with_little_but_pytorch(command, *small, "--json", "--record", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.iterdir()
    assert len(file.read_text().splitlines()) == len(done.stdout.splitlines()) > 0


def test_what_shards_need_is_named() -> None:
    done = on_a_machine_with_little_but_pytorch("shards", "--pictures", "1")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "bench shards: needs webdataset" in line
