from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import ROOT

from pipeline.errors import ConfigError
from pipeline.training import checkpoint


def state(step: int) -> dict[str, Any]:
    return {"step": step, "task": "rec", "model": {"weight": torch.full((3,), float(step))}, "moments": {}, "ema": None}


def save(run: Path, step: int, keep: int = 2) -> Path:
    return checkpoint.save(run, step, state(step), '{"words": ["red"], "answers": []}', keep)


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    folder = save(tmp_path, 7)
    assert folder.name == "step-00000007"
    assert checkpoint.newest(tmp_path) == folder
    found, vocabulary = checkpoint.read(folder)
    assert found["step"] == 7
    assert torch.equal(found["model"]["weight"], torch.full((3,), 7.0))
    assert json.loads(vocabulary) == {"words": ["red"], "answers": []}
    assert sorted(path.name for path in folder.iterdir()) == ["COMMIT", "state.pt", "vocabulary.json"]


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 9):
        save(tmp_path, step)
    assert [folder.name for folder in checkpoint.published(tmp_path)] == ["step-00000009", "step-00000010"]


def test_without_its_marker_it_is_none(tmp_path: Path) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    (second / "COMMIT").unlink()
    assert checkpoint.newest(tmp_path) == first


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    file = second / "state.pt"
    data = bytearray(file.read_bytes())
    if damage == "truncate":
        del data[-1]
    else:
        data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert checkpoint.newest(tmp_path) == first
    with pytest.raises(ConfigError, match="not those that were written"):
        checkpoint.resolve(second)


def test_a_run_without_any_says_so(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    with pytest.raises(ConfigError, match="holds no whole checkpoint"):
        checkpoint.resolve(tmp_path)


def test_a_failed_write_leaves_the_last_one_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert checkpoint.newest(tmp_path) == first
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [first.name]


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("was-run",))


def test_a_hostile_state_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = checkpoint.save(tmp_path, 1, {"step": 1, "model": _Evil()}, "{}", 1)
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.read(folder)
    assert not (tmp_path / "was-run").exists()


_SAVER = """
import sys, torch
from pathlib import Path
from pipeline.training import checkpoint
step = 0
while True:
    step += 1
    big = {"weight": torch.full((200_000,), float(step))}
    checkpoint.save(Path(sys.argv[1]), step, {"step": step, "model": big}, "{}", 2)
    print(step, flush=True)
"""


def test_killed_at_any_point_the_newest_is_whole(tmp_path: Path) -> None:
    """SIGKILL while saving without pause, a few times at different moments; each time the newest one loads."""
    last = 0
    for attempt in range(4):
        run = tmp_path / str(attempt)
        process = subprocess.Popen(
            [sys.executable, "-c", _SAVER, str(run)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        time.sleep(0.013 * (attempt + 1))
        process.send_signal(signal.SIGKILL)
        told = process.communicate()[0].split()
        done = int(told[-1]) if told else 1
        found = checkpoint.newest(run)
        assert found is not None
        loaded, _ = checkpoint.read(found)
        assert loaded["step"] >= done
        assert loaded["model"]["weight"].unique().tolist() == [float(loaded["step"])]
        last = max(last, loaded["step"])
    assert last > 1
