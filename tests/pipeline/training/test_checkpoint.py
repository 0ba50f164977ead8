from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.pipeline.training import checkpoint
from tests.pipeline.training.ranks import comes_to, start


def state(step: int) -> dict[str, Any]:
    return {"step": step, "task": "rec", "model": {"weight": torch.full((3,), float(step))}, "moments": {}, "ema": None}


WORDS = '{"words": ["red"], "answers": []}'


def save(run: Path, step: int, keep: int = 2, **reported: float) -> Path:
    run.mkdir(exist_ok=True)
    best = next(iter(reported), None)
    writer = checkpoint.Writer(run, checkpoint.CheckpointConfig(keep=keep, best=best))
    writer.submit(step, state(step), WORDS, reported)
    writer.finish()
    return checkpoint.folder_of(run, step)


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
    for step in (1, 2, 9, 10):
        save(tmp_path, step)
    assert [folder.name for folder in checkpoint.published(tmp_path)] == ["step-00000009", "step-00000010"]


def test_a_damaged_one_ahead_does_not_drive_out_the_whole_ones(tmp_path: Path) -> None:
    """It was the newest, the run went on from the one before, and now it would be the newest again."""
    save(tmp_path, 4)
    damaged = save(tmp_path, 8)
    (damaged / "state.pt").write_bytes(b"")
    assert save(tmp_path, 6, keep=1) == checkpoint.newest(tmp_path)
    assert [folder.name for folder in checkpoint.published(tmp_path)] == ["step-00000006"]


def test_one_that_is_being_deleted_is_none_from_the_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(tmp_path, 1)
    removed: list[Path] = []

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        removed.append(folder)
        if not ignore_errors:
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(TrainingError):
        save(tmp_path, 2, keep=1)
    assert removed[-1].name == ".step-00000001.dropped"
    assert (removed[-1] / "COMMIT").exists()
    assert not first.exists()
    assert checkpoint.published(tmp_path) == [checkpoint.folder_of(tmp_path, 2)]


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

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match="No space left"):
        save(tmp_path, 2)
    assert checkpoint.newest(tmp_path) == first
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [first.name]


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("was-run",))


def test_a_hostile_state_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = checkpoint.folder_of(tmp_path, 1)
    checkpoint.save(folder, {"step": 1, "model": _Evil()}, "{}")
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.read(folder)
    assert not (tmp_path / "was-run").exists()


_SAVER = """
import sys, torch
from pathlib import Path
from laconvnet.pipeline.training import checkpoint
step = 0
run = Path(sys.argv[1])
run.mkdir()
writer = checkpoint.Writer(run, checkpoint.CheckpointConfig())
while True:
    step += 1
    big = {"weight": torch.full((200_000,), float(step))}
    writer.submit(step, {"step": step, "model": big}, "{}", {})
    writer.finish()
    print(step, flush=True)
"""


def test_killed_at_any_point_the_newest_is_whole(tmp_path: Path) -> None:
    """SIGKILL while saving without pause, a few times at different moments; each time the newest one loads."""
    last = 0
    for attempt in range(6):
        run = tmp_path / str(attempt)
        started = start(1, ["-c", _SAVER, str(run)])
        (process,) = started
        try:
            assert comes_to(started, lambda saver=process: saver.output.startswith("1\n"))  # type: ignore[misc]
            time.sleep(0.013 * attempt)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(60)
            done = int(process.output.split()[-1])
        finally:
            process.kill()
        found = checkpoint.newest(run)
        assert found is not None
        loaded, _ = checkpoint.read(found)
        assert loaded["step"] >= done
        assert loaded["model"]["weight"].unique().tolist() == [float(loaded["step"])]
        last = max(last, loaded["step"])
    assert last > 1


def test_the_best_stays_beside_the_newest(tmp_path: Path) -> None:
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 2.5), (5, 2.2)):
        save(tmp_path, step, keep=2, loss=loss)
    assert [int(folder.name[5:]) for folder in checkpoint.published(tmp_path)] == [2, 4, 5]


def test_what_is_written_is_the_state_at_the_call(tmp_path: Path) -> None:
    writer = checkpoint.Writer(tmp_path, checkpoint.CheckpointConfig())
    live = state(1)
    live["model"] = {str(number): torch.ones(400_000) for number in range(8)}
    writer.submit(1, live, WORDS, {})
    for tensor in live["model"].values():
        tensor.zero_()  # the next step, while the thread still writes
    writer.finish()
    found, _ = checkpoint.read(checkpoint.folder_of(tmp_path, 1))
    assert all(torch.equal(tensor, torch.ones(400_000)) for tensor in found["model"].values())


def test_a_disk_without_room_is_told_and_leaves_the_ones_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    writer = checkpoint.Writer(tmp_path, checkpoint.CheckpointConfig())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    writer.submit(2, state(2), WORDS, {})
    assert writer.failed
    with pytest.raises(TrainingError, match=r"could not be written .*takes 0 MB, .* 0 MB left"):
        writer.finish()
    assert [folder.name for folder in checkpoint.published(tmp_path)] == ["step-00000001"]


def test_a_full_disk_in_the_middle_of_writing_leaves_the_ones_before(tmp_path: Path) -> None:
    """A real one: a file system of 4 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        save(place, 1)
        big = {**state(2), "model": {"weight": torch.rand(2_000_000)}}
        with pytest.raises((OSError, RuntimeError), match=r"No space left|unexpected pos|file write failed"):
            checkpoint.save(checkpoint.folder_of(place, 2), big, WORDS)
        assert checkpoint.newest(place) == checkpoint.folder_of(place, 1)
        assert [path.name for path in (place / "checkpoints").iterdir()] == ["step-00000001"]
        save(place, 3)
    finally:
        subprocess.run(["umount", str(place)], check=True)
