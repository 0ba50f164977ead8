"""One process trains a run: who holds the folder, and who may take it over."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from laconvnet.files import publish_json
from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.pipeline.runs import owner

BEAT_SECONDS, STILL_SECONDS = owner.BEAT_SECONDS, owner.STILL_SECONDS  # before the tests are in a hurry
_HOLD = """
import sys, time
from pathlib import Path
from laconvnet.pipeline.runs import owner
with owner.take(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def held_by_another(run: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def opened_files() -> list[str]:
    """What this process has open, by name; a file that was deleted since, too."""
    with os.scandir("/proc/self/fd") as links:
        return [os.readlink(link.path) for link in links if link.is_symlink()]


def names(run: Path, **changes: object) -> owner.Holder:
    """Write a file that names another owner than this process."""
    run.mkdir(exist_ok=True)
    found = dataclasses.replace(owner.Holder.here(), host="node7", machine="another boot", **changes)  # type: ignore[arg-type]
    publish_json(run / "owner.json", dataclasses.asdict(found))
    return found


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "STILL_SECONDS", 0.6)
    monkeypatch.setattr(owner, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.05)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_a_second_one_is_refused_by_name_and_a_third_is_not_once_it_is_free(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with owner.take(run) as own:
        own.check()
        with pytest.raises(ConfigError, match=f"{run}: process {os.getpid()} on .* trains here; .*--run"):
            owner.take(run)
        own.check()
    assert not run.exists()  # nothing came of it
    run.mkdir()
    with owner.take(run):
        assert owner.holder(run)
    assert list(run.iterdir()) == []
    assert not any("owner.json" in name for name in opened_files())


def test_one_that_was_killed_on_this_machine_is_gone_at_once(tmp_path: Path) -> None:
    process = held_by_another(tmp_path)
    try:
        with pytest.raises(ConfigError, match=f"process {process.pid} on"):
            owner.take(tmp_path)
    finally:
        process.kill()  # and not waited for: a zombie trains nothing
    deadline = time.monotonic() + 20
    while owner._began(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    with owner.take(tmp_path) as own:
        own.check()
    process.wait()


def test_one_that_only_stands_still_on_this_machine_is_not_gone(tmp_path: Path) -> None:
    process = held_by_another(tmp_path)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(ConfigError, match="trains here"):
            owner.take(tmp_path)
    finally:
        process.kill()
        process.wait()


def test_one_elsewhere_is_gone_when_its_file_keeps_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = names(tmp_path, pid=12)
    os.utime(tmp_path / "owner.json", (4e9, 4e9))  # by a clock that is decades ahead
    with owner.take(tmp_path) as own:
        own.check()
    assert f"{found}; watching" in capsys.readouterr().err


def test_one_elsewhere_that_beats_is_not(tmp_path: Path) -> None:
    beat = """
import os, sys, time
while True:
    os.utime(sys.argv[1])
    time.sleep(0.02)
"""
    names(tmp_path, pid=12)
    process = subprocess.Popen([sys.executable, "-c", beat, str(tmp_path / "owner.json")])
    try:
        with pytest.raises(ConfigError, match="process 12 on node7 trains here"):
            owner.take(tmp_path)
    finally:
        process.kill()
        process.wait()


def test_an_owner_is_watched_for_a_minute_in_which_it_should_beat_a_dozen_times() -> None:
    assert (BEAT_SECONDS, STILL_SECONDS) == (5, 60)


def test_the_owner_beats(tmp_path: Path) -> None:
    with owner.take(tmp_path):
        assert not owner._stands_still(tmp_path / "owner.json")


def test_an_earlier_start_of_the_same_job_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names(tmp_path, job="77", start=0)
    monkeypatch.setattr(owner, "_stands_still", lambda _: pytest.fail("there is nothing to watch"))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with owner.take(tmp_path):
        pass


@pytest.mark.parametrize(
    ("answer", "gone"),
    [
        ("exit 0", True),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", True),
        ("echo RUNNING", False),
        ("exit 3", False),
    ],
)
def test_a_job_that_slurm_does_not_know_any_more_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, gone: bool
) -> None:
    """Where SLURM knows it, or does not answer, only the beat tells."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "squeue").write_text(f'#!/bin/sh\n[ "$3" = --jobs=78 ] || exit 9\n{answer}\n')
    (commands / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    watched: list[Path] = []
    monkeypatch.setattr(owner, "_stands_still", lambda file: not watched.append(file))  # type: ignore[func-returns-value]
    names(tmp_path / "run", job="78")
    with owner.take(tmp_path / "run"):
        pass
    assert bool(watched) != gone


def test_one_that_was_taken_for_gone_stops_before_it_publishes(tmp_path: Path) -> None:
    with owner.take(tmp_path) as own:
        other = names(tmp_path, pid=9)
        with pytest.raises(TrainingError, match="process 9 on node7 has taken this run over"):
            own.check()
    assert owner.holder(tmp_path) == other  # it is not ours to clear
    (tmp_path / "owner.json").unlink()
    with owner.take(tmp_path) as own:
        (tmp_path / "owner.json").unlink()
        with pytest.raises(TrainingError, match="is gone from it"):
            own.check()


def test_who_takes_another_ones_name_by_mistake_puts_it_back(tmp_path: Path) -> None:
    """Two find the same dead owner; the slower one must not remove the name of the faster one."""
    gone = names(tmp_path, pid=1)
    fresh = names(tmp_path, pid=2)
    owner._remove(tmp_path / "owner.json", gone, owner.Holder.here())
    assert owner.holder(tmp_path) == fresh
    assert [path.name for path in tmp_path.iterdir()] == ["owner.json"]


def test_a_damaged_file_names_nobody_but_holds_while_it_beats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "owner.json").write_text("{")
    with owner.take(tmp_path) as own:
        own.check()
    assert "names process 0 on an unknown host;" in capsys.readouterr().err


def test_who_finds_the_place_taken_again_each_time_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names(tmp_path, pid=12)
    tried: list[Path] = []
    monkeypatch.setattr(owner, "_is_gone", lambda *_: True)
    monkeypatch.setattr(owner, "_remove", lambda file, *_: tried.append(file))
    with pytest.raises(ConfigError, match="process 12 on node7 trains here"):
        owner.take(tmp_path)
    assert tried == [tmp_path / "owner.json"] * 3


def test_the_last_beat_is_over_before_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would go to whatever file is given the descriptor's number next."""
    begun, over = threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        begun.set()
        time.sleep(0.3)
        over.set()

    monkeypatch.setattr(os, "utime", slow)
    with owner.take(tmp_path):
        assert begun.wait(20)
    assert over.is_set()


def test_an_owner_is_alive_while_its_process_is(tmp_path: Path) -> None:
    with owner.take(tmp_path):
        found = owner.holder(tmp_path)
        assert found is not None
        assert owner.is_alive(tmp_path, found) is True
        assert owner.is_alive(tmp_path, dataclasses.replace(found, began="long ago")) is False
