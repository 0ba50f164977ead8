from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from laconvnet import files
from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.runs.layout import step_of
from laconvnet.pipeline.runs.scores import Criterion, Score
from laconvnet.pipeline.training import checkpoint
from tests.pipeline.training.ranks import comes_to, start


def state(step: int) -> dict[str, Any]:
    weights = {"weight": torch.full((3,), float(step))}
    return {"step": step, "task": "rec", "data": "a set", "model": weights, "moments": {}, "ema": None}


WORDS = '{"words": ["red"], "answers": []}'


def save(run: Path, step: int, keep: int = 2, **reported: float) -> Path:
    run.mkdir(exist_ok=True)
    ((metric, value),) = reported.items() or [("", None)]
    writer = checkpoint.Writer(run, checkpoint.CheckpointConfig(keep=keep), criterion=Criterion(metric))
    writer.submit(step, state(step), WORDS, Score(value, metric, None) if metric else None)
    writer.finish()
    return checkpoint.folder_of(run, step)


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    folder = save(tmp_path, 7)
    assert folder.name == "step-00000007"
    assert checkpoints.newest(tmp_path) == folder
    found, vocabulary = checkpoint.read(folder)
    assert found["step"] == 7
    assert torch.equal(found["model"]["weight"], torch.full((3,), 7.0))
    assert str(folder / "state.pt") in Path("/proc/self/maps").read_text(), "mapped, not copied"
    assert json.loads(vocabulary) == {"words": ["red"], "answers": []}
    assert sorted(path.name for path in folder.iterdir()) == ["COMMIT", "state.pt", "vocabulary.json"]


def test_a_step_that_is_taken_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    folder = save(tmp_path, 3)
    checkpoint.save(folder, {**state(3), "data": "another set"}, WORDS)
    assert checkpoint.read(folder)[0]["data"] == "another set"
    assert checkpoints.inspect(folder).is_whole
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10):
        save(tmp_path, step)
    assert [folder.name for folder in checkpoints.published(tmp_path)] == ["step-00000009", "step-00000010"]


def test_a_damaged_one_is_never_dropped(tmp_path: Path) -> None:
    """Neither for its age nor because it lies ahead: a start sets it aside, whoever owns it looks at it."""
    old, ahead = save(tmp_path, 2), save(tmp_path, 8)
    (old / "COMMIT").write_text("{}")
    (ahead / "state.pt").write_bytes(b"")
    save(tmp_path, 4, keep=1)
    save(tmp_path, 6, keep=1)
    assert [step_of(folder) for folder in checkpoints.published(tmp_path)] == [2, 6, 8]
    assert checkpoints.newest(tmp_path) == checkpoint.folder_of(tmp_path, 6)


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
    assert checkpoints.published(tmp_path) == [checkpoint.folder_of(tmp_path, 2)]


def test_without_its_marker_it_is_damaged(tmp_path: Path) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    (second / "COMMIT").unlink()
    assert checkpoints.newest(tmp_path) == first
    assert checkpoints.inspect(second).damage == "COMMIT is gone"


@pytest.mark.parametrize(
    ("damage", "told"), [("truncate", "bytes"), ("flip", "other bytes"), ("delete", "gone"), ("marker", "COMMIT")]
)
def test_a_damaged_one_is_told_from_a_whole_one(tmp_path: Path, damage: str, told: str) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    file = second / ("COMMIT" if damage == "marker" else "state.pt")
    data = bytearray(file.read_bytes())
    if damage == "delete":
        file.unlink()
    else:
        if damage == "flip":
            data[len(data) // 2] ^= 1
        else:
            del data[-1]
        file.write_bytes(data)
    assert checkpoints.newest(tmp_path) == first
    assert told in (checkpoints.inspect(second).damage or "")
    for place in (second, tmp_path):  # an older one is not what was asked for
        with pytest.raises(ConfigError, match=f"{second}.*damaged.*{told}"):
            checkpoints.resolve(place)


def test_a_run_without_any_says_so(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) is None
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        checkpoints.resolve(tmp_path)


def test_one_of_a_newer_version_is_not_damaged(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    marker = json.loads((folder / "COMMIT").read_text())
    (folder / "COMMIT").write_text(json.dumps(marker | {"version": 99}))
    for look in (checkpoints.inspect, checkpoints.resolve, checkpoints.is_whole):
        with pytest.raises(ConfigError, match=r"COMMIT: version 99, expected one of 1, 2"):
            look(folder)
    assert folder.exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("passes", [True, False])
def test_what_cannot_be_read_is_neither_absent_nor_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passes: bool
) -> None:
    """A stale handle passes: it is waited out. One that stays ends the look at this file, by its name."""
    newest = save(tmp_path, 2)
    monkeypatch.setattr(files, "_PAUSES_SECONDS", (0.0, 0.0))
    failures = [0]
    listed = os.listdir

    def stale(folder: Path) -> list[str]:
        failures[0] += 1
        if not passes or failures[0] < 3:
            raise OSError(number, os.strerror(number))
        return listed(folder)

    monkeypatch.setattr(os, "listdir", stale)
    if passes:
        assert checkpoints.newest(tmp_path) == newest
    else:
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            checkpoints.newest(tmp_path)
        assert caught.value.filename == str(tmp_path / "checkpoints")
    assert failures[0] == 3


def test_a_short_read_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path, 1)
    real = checkpoints._described
    looks = [0]

    def short(file: Path) -> dict[str, Any]:
        looks[0] += 1
        found = real(file)
        return found | {"bytes": found["bytes"] - 1} if looks[0] == 1 else found

    monkeypatch.setattr(checkpoints, "_described", short)
    assert checkpoints.inspect(folder).is_whole
    assert looks[0] == 3


def test_a_state_without_a_field_is_told(tmp_path: Path) -> None:
    folder = checkpoint.folder_of(tmp_path, 1)
    checkpoint.save(folder, {name: value for name, value in state(1).items() if name != "task"}, WORDS)
    with pytest.raises(ConfigError, match=r"state\.pt: has no task"):
        checkpoint.read(folder)
    with pytest.raises(ConfigError, match=r"has no task, updates, loss_scale"):
        checkpoint.read(folder, checkpoint.RESUMES)


def test_one_that_is_set_aside_makes_room_for_its_step_again(tmp_path: Path) -> None:
    places = [checkpoint.set_aside(save(tmp_path, 3)) for _ in range(2)]
    assert [place.name for place in places] == ["damaged-step-00000003", "damaged-step-00000003-2"]
    assert all((place / "COMMIT").exists() for place in places)
    assert checkpoints.published(tmp_path) == []


def test_a_failed_write_leaves_the_last_one_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match="No space left"):
        save(tmp_path, 2)
    assert checkpoints.newest(tmp_path) == first
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [first.name]


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("was-run",))


def test_a_hostile_state_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = checkpoint.folder_of(tmp_path, 1)
    checkpoint.save(folder, {"step": 1, "model": _Evil()}, "{}")
    with pytest.raises(ConfigError, match=r"state\.pt: is a pickle that asks for \w+\.mkdir; .* nothing of it has run"):
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
    writer.submit(step, {"step": step, "model": big}, "{}")
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
            some = attempt + 1
            assert comes_to(started, lambda saver=process, some=some: saver.output.count("\n") >= some)  # type: ignore[misc]
            time.sleep(0.013 * attempt)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(60)
            done = int(process.output.split()[-1])
        finally:
            process.kill()
        found = checkpoints.newest(run)
        assert found is not None
        loaded, _ = checkpoint.read(found, ["step", "model"])
        assert loaded["step"] >= done
        assert loaded["model"]["weight"].unique().tolist() == [float(loaded["step"])]
        last = max(last, loaded["step"])
    assert last > 1


def test_all_of_it_is_on_the_disk_before_the_fence_is_looked_at_and_the_name_comes_after(
    tmp_path: Path, reaching_disk: list[str]
) -> None:
    def looked() -> None:
        reaching_disk.append("fence")

    checkpoint.save(checkpoint.folder_of(tmp_path, 1), state(1), WORDS, may_publish=looked)
    fence, name = reaching_disk.index("fence"), reaching_disk.index("rename to step-00000001")
    files = ("state.pt", "vocabulary.json", "COMMIT", "step-00000001")
    assert {*reaching_disk[:fence]} == {f"sync {file}" for file in files}
    assert fence < name
    assert reaching_disk[name + 1 :] == ["sync checkpoints"]


def test_a_start_that_is_not_the_newest_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither anew nor over one that is there, and it drops none."""
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    before = (second / "COMMIT").read_bytes()
    (tmp_path / "fence.json").write_text('{"start": 1}')
    monkeypatch.setenv("LACONVNET_FENCE", str(tmp_path / "fence.json"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    for step in (2, 3):
        with pytest.raises(TrainingError, match=r"fence\.json: .*start 1"):
            save(tmp_path, step)
    with pytest.raises(TrainingError, match=r"fence\.json"):
        checkpoint.save(checkpoint.folder_of(tmp_path, 4), state(4), WORDS)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [first.name, second.name]
    assert (second / "COMMIT").read_bytes() == before
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert save(tmp_path, 3).is_dir()


def test_the_best_stays_beside_the_newest(tmp_path: Path) -> None:
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 2.5), (5, 2.2)):
        save(tmp_path, step, keep=2, loss=loss)
    assert [int(folder.name[5:]) for folder in checkpoints.published(tmp_path)] == [2, 4, 5]


def test_what_an_older_version_kept_by_is_compared_with_what_is_kept_by_now(tmp_path: Path) -> None:
    for step, loss in ((1, 3.0), (2, 1.0)):
        save(tmp_path, step, loss=loss)
    marker = checkpoint.folder_of(tmp_path, 2) / "COMMIT"
    marker.write_text(marker.read_text().replace('"metric": "loss", "split": null, ', ""))
    assert checkpoints.read_marker(marker.parent).metric is None
    for step, loss in ((3, 2.0), (4, 2.5), (5, 2.2)):
        save(tmp_path, step, loss=loss)
    assert [step_of(folder) for folder in checkpoints.published(tmp_path)] == [2, 4, 5]


def test_the_best_by_validation_is_the_highest(tmp_path: Path) -> None:
    writer = checkpoint.Writer(tmp_path, checkpoint.CheckpointConfig(keep=1), criterion=Criterion("miou", "val"))
    for step, score in ((1, Score(0.2, "miou", "val")), (2, Score(0.7, "miou", "val")), (3, None)):
        writer.submit(step, state(step), WORDS, score)
    writer.submit(4, state(4), WORDS, Score(0.9, "miou", "testA"))
    writer.submit(5, state(5), WORDS, Score(0.6, "miou", "val"))
    writer.finish()
    assert [step_of(folder) for folder in checkpoints.published(tmp_path)] == [2, 5]


def test_what_is_written_is_the_state_at_the_call(tmp_path: Path) -> None:
    writer = checkpoint.Writer(tmp_path, checkpoint.CheckpointConfig())
    live = state(1)
    live["model"] = {str(number): torch.ones(400_000) for number in range(8)}
    writer.submit(1, live, WORDS)
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
    writer.submit(2, state(2), WORDS)
    assert writer.failed
    with pytest.raises(TrainingError, match=r"could not be written .*takes 0 MB, .* 0 MB left"):
        writer.finish()
    assert [folder.name for folder in checkpoints.published(tmp_path)] == ["step-00000001"]


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
        assert checkpoints.newest(place) == checkpoint.folder_of(place, 1)
        assert [path.name for path in (place / "checkpoints").iterdir()] == ["step-00000001"]
        save(place, 3)
    finally:
        subprocess.run(["umount", str(place)], check=True)
