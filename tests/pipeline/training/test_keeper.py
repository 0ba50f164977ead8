"""How often a state is kept in memory, and what of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.distributed import ALONE
from laconvnet.pipeline.runs.memory import Memory, Record
from laconvnet.pipeline.runs.scores import Score
from laconvnet.pipeline.training import checkpoint, keeper, resume
from laconvnet.pipeline.training.engine import Engine
from laconvnet.pipeline.training.keeper import Keeper

RECORD = Record(0, None, None, "a set", None, "a run", "token")
STATE: dict[str, Any] = {"step": 1, "model": {"weight": torch.ones(3)}}


class Peers:
    """The other processes, the slowest of which keeps a state every ``steps`` steps."""

    def __init__(self, steps: int = 1) -> None:
        self.steps = steps

    def agree(self, signal: int) -> int:
        return max(signal, self.steps)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(f"{keeper.__name__}.time.perf_counter", lambda: now[0])
    return now


def kept_at(
    clock: list[float], share: float, cost: float, slowest: int = 1, steps: int = 12, beside: float = 0.0
) -> list[int]:
    """The steps, of a second each, after which a state was kept; so much time after each is no part of a step."""
    memory = Memory.make(keeps=True)
    mine, found = Keeper(memory, share, cast("Engine", Peers(slowest)), RECORD), []
    for done in range(1, steps + 1):
        clock[0] += 1.0
        if mine.reached(done):
            clock[0] += cost
            mine.keep(done, STATE, "{}", None)
            newest = memory.newest()
            assert newest is not None
            found.append(newest.record.step)
        clock[0] += beside
        mine.left_out()
        assert memory.steps == done
    return found


def test_a_state_is_kept_as_often_as_its_share_of_the_time_allows(clock: list[float]) -> None:
    assert kept_at(clock, 0.1, 0.35) == [1, 5, 9]  # four steps for a third of one
    assert kept_at(clock, 1.0, 5.0, steps=3) == [1, 2, 3]
    assert kept_at(clock, 0.0, 0.1) == []
    assert kept_at(clock, 0.1, 0.0, slowest=6) == [1, 7]  # all together
    assert kept_at(clock, 0.1, 0.35, beside=100.0) == [1, 5, 9]


def test_without_a_supervisor_nothing_is_kept() -> None:
    assert not Keeper(None, 1.0, cast("Engine", Peers()), RECORD).reached(1)


def test_of_a_view_only_its_own_is_kept(clock: list[float]) -> None:
    memory, whole = Memory.make(keeps=True), torch.arange(1_000_000.0)
    mine = Keeper(memory, 1.0, cast("Engine", Peers()), RECORD)
    clock[0] += 1.0
    mine.reached(1)
    mine.keep(1, {"model": {"weight": whole[5:8]}}, "{}", Score(0.5, "loss", None))
    found = memory.newest()
    assert found is not None
    assert (found.record.score, found.record.metric, found.record.split) == (0.5, "loss", None)
    assert found.file.stat().st_size == found.record.bytes < 10_000
    saved = checkpoint.Saved.kept(found)
    assert saved.state["model"]["weight"].tolist() == [5.0, 6.0, 7.0]


def test_a_start_goes_on_from_the_newer_of_memory_and_checkpoints(tmp_path: Path, refcoco: Path) -> None:
    config = configuration.load(Path(__file__).with_name("tiny.yaml"), ["--data.folder", str(refcoco)])
    (tmp_path / "config.yaml").write_text(configuration.dump(config))
    memory = Memory.make(keeps=True)
    assert resume.saved(config, tmp_path, ALONE, memory) is None
    with memory.writing(Record(3, None, None, None, None, str(tmp_path), "token"), "in memory") as file:
        torch.save({"step": 3}, file)
    state = {name: None for name in checkpoint.RESUMES} | {"step": 2}
    checkpoint.save(checkpoint.folder_of(tmp_path, 2), state, "on disk")
    found = resume.saved(config, tmp_path, ALONE, memory)
    assert found is not None
    assert (found.state["step"], found.vocabulary) == (3, "in memory")
    assert "memory" in found.place
    checkpoint.save(checkpoint.folder_of(tmp_path, 4), {**state, "step": 4}, "on disk")
    found = resume.saved(config, tmp_path, ALONE, memory)
    assert found is not None
    assert (found.state["step"], found.vocabulary) == (4, "on disk")
    assert found.place.endswith("step-00000004")
    (checkpoint.folder_of(tmp_path, 4) / "state.pt").write_bytes(b"damaged")
    found = resume.saved(config, tmp_path, ALONE, memory)
    assert found is not None
    assert found.state["step"] == 3  # newer than the one before
    checkpoint.save(checkpoint.folder_of(tmp_path, 4), {**state, "step": 4}, "on disk")
    without = resume.saved(config, tmp_path, ALONE, None)
    assert without is not None
    assert without.state["step"] == 4


def test_a_start_does_not_go_on_from_the_state_of_another_run(tmp_path: Path, refcoco: Path) -> None:
    """One process trains several: a measurement does."""
    config = configuration.load(Path(__file__).with_name("tiny.yaml"), ["--data.folder", str(refcoco)])
    memory = Memory.make(keeps=True)
    with memory.writing(Record(3, None, None, None, None, str(tmp_path / "first"), "token"), "words") as file:
        torch.save({"step": 3}, file)
    (tmp_path / "second").mkdir()
    assert resume.saved(config, tmp_path / "second", ALONE, memory) is None
    found = resume.saved(config, tmp_path / "first", ALONE, memory)
    assert found is not None
    assert found.state["step"] == 3
