"""What a supervisor's memory keeps of a rank, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.pipeline.runs import checkpoints, owner
from laconvnet.pipeline.runs.memory import Memory, Record
from laconvnet.pipeline.runs.publish import publish_kept

RECORD = Record(0, None, "seal", "set", "v1", "a run", "token")
_RANK = """
import os, signal
from dataclasses import replace
from laconvnet.pipeline.runs.memory import Memory
from tests.pipeline.runs.test_memory import RECORD
memory = Memory.inherited()
memory.beat(); memory.beat(); memory.reach(7)
for step in (5, 6):
    with memory.writing(replace(RECORD, step=step), "words") as file:
        file.write(b"state %d" % step)
with memory.writing(replace(RECORD, step=7), "words") as file:
    file.write(b"sta")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def keep(memory: Memory, step: int, state: bytes, run: Path = Path("a run"), token: str = "token") -> None:
    with memory.writing(Record(step, 0.5, "seal", "set", "v1", str(run), token), "words") as file:
        file.write(state)


def newest(memory: Memory) -> tuple[int, bytes]:
    found = memory.newest()
    assert found is not None
    assert found.vocabulary == "words"
    return found.record.step, found.file.read_bytes()


def test_a_rank_killed_while_it_writes_leaves_the_state_before() -> None:
    memory = Memory.make(keeps=True)
    assert memory.newest() is None
    variables = {**os.environ, **memory.variables()}
    command = [sys.executable, "-c", _RANK]
    root = Path(__file__).resolve().parents[3]
    rank = subprocess.run(command, env=variables, pass_fds=memory.descriptors, cwd=root, check=False)
    assert rank.returncode == -signal.SIGKILL
    assert (memory.beats, memory.steps) == (2, 7)
    assert newest(memory) == (6, b"state 6")
    keep(memory, 7, b"longer state 7")  # into the place that was half written
    keep(memory, 8, b"s8")  # shorter than what was there
    assert newest(memory) == (8, b"s8")


def test_an_error_while_it_is_written_leaves_the_state_before() -> None:
    memory = Memory.make(keeps=True)
    keep(memory, 1, b"one")
    with pytest.raises(RuntimeError, match="no state"), memory.writing(RECORD, "words"):
        raise RuntimeError("no state")
    assert newest(memory) == (1, b"one")


def test_a_board_alone_keeps_no_states_and_what_nobody_gave_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory.make(keeps=False)
    memory.reach(3)
    assert (memory.keeps, memory.steps, memory.newest()) == (False, 3, None)
    monkeypatch.delenv("LACONVNET_MEMORY", raising=False)
    assert Memory.inherited() is None


def test_states_of_another_run_are_forgotten_with_its_vocabulary() -> None:
    memory = Memory.make(keeps=True)
    keep(memory, 98, b"state 98")
    keep(memory, 99, b"state 99")
    with memory.writing(Record(1, None, "seal", "set", "v1", "the next run", "token"), "other words") as file:
        file.write(b"state 1")
    found = memory.newest()
    assert found is not None
    assert (found.record.run, found.record.step, found.vocabulary) == ("the next run", 1, "other words")


def test_what_a_rank_starts_has_no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable comes to it, and the descriptors do not: another file may have taken their numbers, or none."""
    (tmp_path / "other").write_bytes(bytes(1 << 16))
    with (tmp_path / "other").open("r+b") as other:
        monkeypatch.setenv("LACONVNET_MEMORY", f"{other.fileno()}")
        assert Memory.inherited() is None
    monkeypatch.setenv("LACONVNET_MEMORY", "1023")
    assert Memory.inherited() is None
    memory = Memory.make(keeps=False)
    monkeypatch.setenv("LACONVNET_MEMORY", memory.variables()["LACONVNET_MEMORY"])
    assert Memory.inherited() is not None


def published(run: Path, step: int) -> tuple[Path, bytes]:
    (folder,) = [found for found in checkpoints.published(run) if found.name.endswith(f"{step}")]
    assert checkpoints.is_whole(folder)
    return folder, (folder / "state.pt").read_bytes()


def test_what_memory_holds_becomes_a_checkpoint_unless_the_run_has_come_as_far(tmp_path: Path) -> None:
    memory = Memory.make(keeps=True)
    keep(memory, 4, b"state 4", tmp_path)
    kept = memory.newest()
    assert kept is not None
    assert publish_kept(kept) == published(tmp_path, 4)[0]
    marker = checkpoints.read_marker(published(tmp_path, 4)[0])
    assert (marker.step, marker.score, marker.config, marker.data, marker.code) == (4, 0.5, "seal", "set", "v1")
    assert published(tmp_path, 4)[1] == b"state 4"
    assert (published(tmp_path, 4)[0] / "vocabulary.json").read_text() == "words"
    assert publish_kept(kept) is None
    keep(memory, 3, b"state 3", tmp_path)
    assert not (tmp_path / "owner.json").exists()


def test_it_is_published_in_place_of_the_lost_owner_and_of_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "STILL_SECONDS", 0.3)
    memory = Memory.make(keeps=True)
    with owner.take(tmp_path) as own:
        keep(memory, 1, b"state 1", tmp_path, own.token)
        kept = memory.newest()
        assert kept is not None
        assert publish_kept(kept) is not None  # it says that this owner is gone, though its process lives
        with pytest.raises(TrainingError, match=r"owner\.json"):
            own.check()
    with owner.take(tmp_path):
        keep(memory, 2, b"state 2", tmp_path, "another token")
        kept = memory.newest()
        assert kept is not None
        with pytest.raises(ConfigError, match="trains here"):
            publish_kept(kept)
    assert [folder.name for folder in checkpoints.published(tmp_path)] == ["step-00000001"]
