"""SIGKILL at any point of training and of publishing: the next start goes on as if nothing had happened.

A lap is one run of two processes, killed and started again until it is complete. `make fuzz` walks 200 points, an
ordinary run of the tests a few; `make fuzz SEED=7 POINTS=1` walks the first lap of that seed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.runs.layout import step_of
from tests.pipeline.training.ranks import Rank, comes_to, finish, stands_still, start

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
POINTS, SEED = int(os.environ.get("POINTS", "4")), int(os.environ.get("SEED", "0"))
STAGES = ("0", "1 validated", "0 validated", "3 validated") if POINTS > 4 else ("0 validated",)
KEEP, EVERY, PATIENCE_SECONDS = 2, 2, 120
KEYS = ["--data.batch", "4", "--schedule.epochs", "0.55", "--model.affinity_dropout", "0.1"]
VALIDATE = ["--validate.every", "0.2", "--validate.metric", "miou", "--validate.examples", "2"]
REACH = 1.5  # how many checkpoints' lines a start may run before it is stopped at one


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to: what each rank trained on, losses as logged, checkpoints, scores."""

    steps: dict[int, list[tuple[list[int], str]]]
    losses: dict[int, float]
    files: dict[int, dict[str, Any]]
    lines: dict[str, float]
    scores: dict[int, bytes]
    chosen: int


def command(run: Path, refcoco: Path, stage: str, every: int, keep: int) -> list[str]:
    zero, *validated = stage.split()
    given = ["--config", str(HERE / "tiny.yaml"), "--data.folder", str(refcoco), "--engine.zero", zero]
    given += VALIDATE if validated else []
    kept = ["--checkpoint.every", str(every), "--checkpoint.keep", str(keep)]
    return [str(HERE / "watched.py"), "train", "--run", str(run), *given, *KEYS, *kept]


def output(place: Path, rank: int) -> list[dict[str, Any]]:
    file = place / f"rank-{rank}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def logged(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def scores(run: Path) -> dict[int, bytes]:
    """What each validation wrote, whatever the run is called."""
    files = {step_of(file.parent): file.read_bytes() for file in run.glob("validations/*/scores.json")}
    return {step: told.replace(str(run).encode(), b"RUN") for step, told in files.items()}


def marker(folder: Path) -> dict[str, Any]:
    files: dict[str, Any] = json.loads((folder / "COMMIT").read_text())["files"]
    return files


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, refcoco: Path) -> dict[str, Undisturbed]:
    return {stage: _undisturbed(tmp_path_factory.mktemp("whole"), refcoco, stage) for stage in STAGES}


def _undisturbed(place: Path, refcoco: Path, stage: str) -> Undisturbed:
    run = place / "run"
    # A signal may save after any step.
    finish(start(2, command(run, refcoco, stage, every=1, keep=99), WATCHED=str(place)))
    ranks = [output(place, rank) for rank in (0, 1)]
    steps = [{row["step"]: (row["rows"], row["loss"]) for row in rows if "step" in row} for rows in ranks]
    saved = checkpoints.published(run)
    totals = [row["lines"] for row in ranks[0] if "lines" in row][-1]
    return Undisturbed(
        {number: [ranked[number] for ranked in steps] for number in steps[0]},
        logged(run),
        {step_of(folder): marker(folder) for folder in saved},
        {name: count / len(saved) for name, count in totals.items()},
        scores(run),
        checkpoints.choose(run).step,
    )


@dataclass(frozen=True)
class Plan:
    """Whom a start loses, and when: before a line of its checkpoint thread, or some time after a step.

    ``output`` is output to stop before: it saves and leaves, if the kill is not faster.
    """

    victims: tuple[int, ...]
    file: str | None
    line: int
    steps: int
    seconds: float
    output: int | None

    @classmethod
    def drawn(cls, draw: random.Random, lines: dict[str, float], number: int) -> Plan:
        victims = draw.choice([(0, 1), (1, 0), (0,), (1,)])
        file = ("checkpoint", None, "shutil", "serialization", None)[number % 5]
        line = draw.randint(1, round(REACH * lines[file])) if file else 0
        steps = draw.choice([-1, 0, 1, 2, 3, 4])
        # Before the first step a signal ends a process as it does any other.
        output = draw.choice([0, 1]) if not file and steps > 0 and draw.random() < 0.5 else None
        return cls(victims, file, line, steps, draw.uniform(0, 1), output)

    def __str__(self) -> str:
        who = f"rank {self.victims[0]}" if len(self.victims) == 1 else "both ranks"
        if self.file:
            return f"{who} killed before line {self.line} of {self.file}"
        signalled = f"rank {self.output} output to stop and " if self.output is not None else ""
        return f"{signalled}{who} killed {self.seconds:.2f} s after {self.steps} steps"

    def carry_out(self, ranks: list[Rank], watched: Path) -> bool:
        """Whether somebody was killed: the run may come to its end before."""
        taken = lambda: all(len(output(watched, rank)) > self.steps for rank in (0, 1))  # noqa: E731
        if not (stands_still(ranks) if self.file else comes_to(ranks, taken)):
            return False
        if self.output is not None:
            _sent(ranks[self.output], signal.SIGTERM)
        if not self.file:
            time.sleep(self.seconds)
        # Before they have met, whatever starts them ends the other one.
        met = all(output(watched, rank) for rank in (0, 1))
        killed = [_sent(ranks[victim], signal.SIGKILL) for victim in (self.victims if met else (0, 1))]
        _sent(ranks[0], signal.SIGCONT)
        return any(killed)


def _sent(rank: Rank, number: signal.Signals) -> bool:
    """Whether it was still there to get the signal."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(rank.pid, number)
        return True
    return False


class Lap:
    """One run, killed until it is complete."""

    def __init__(self, place: Path, refcoco: Path, whole: Undisturbed, seed: int, stage: str) -> None:
        self.run, self.place, self.whole, self.seed = place / "run", place, whole, seed
        self.command = command(self.run, refcoco, stage, EVERY, KEEP)
        self.draw = random.Random(seed)
        self.points = 0
        self.starts = 0

    def walk(self, points: int) -> int:
        """Kill at most so many times, then let it come to its end; how often it was killed."""
        while self.disturbed(kill=self.points < points):
            pass
        self.check_the_end()
        return self.points

    def disturbed(self, kill: bool) -> bool:
        """One start; whether it did not come to its end."""
        self.starts += 1
        before = self.newest()
        watched = self.place / f"start-{self.starts}"
        watched.mkdir()
        plan = Plan.drawn(self.draw, self.whole.lines, self.starts + self.seed - 1)
        stop = {"STOP_AT": f"{plan.file}:{plan.line}"} if kill and plan.file else {}
        ranks = start(2, self.command, WATCHED=str(watched), **stop)
        try:
            killed = kill and plan.carry_out(ranks, watched)
            for rank in ranks:  # whoever is left loses its peer and ends
                rank.wait(PATIENCE_SECONDS)
            codes = [rank.returncode for rank in ranks]
            assert killed or codes == [0, 0] or (kill and codes == [130, 130]), "\n---\n".join(r.output for r in ranks)
        finally:
            for rank in ranks:
                rank.kill()
        self.check_the_start(watched, before)
        if killed:
            self.points += 1
            print(f"seed {self.seed}  point {self.points}: {plan}, goes on from step {self.newest()}", flush=True)
        return codes != [0, 0]

    def newest(self) -> int:
        """The step that a start would go on from; whatever a kill left, no checkpoint is half there or another."""
        for folder in sorted((self.run / "checkpoints").glob("step-*")):
            assert checkpoints.is_whole(folder), f"{folder} is not whole"
            assert marker(folder) == self.whole.files[step_of(folder)], f"{folder} holds another state"
        found = checkpoints.newest(self.run)
        return step_of(found) if found else 0

    def check_the_start(self, watched: Path, before: int) -> None:
        """It began where the newest checkpoint was, swept, and took the steps of the undisturbed run, to the bit."""
        for rank in (0, 1):
            rows = output(watched, rank)
            if rows:
                assert rows[0]["begun"] == before
                assert rows[0]["litter"] == [] or rank, f"left from before: {rows[0]['litter']}"
            taken = [row for row in rows if "step" in row]
            assert [row["step"] for row in taken] == [*range(before, before + len(taken))]
            for row in taken:
                assert (row["rows"], row["loss"]) == self.whole.steps[row["step"]][rank], f"rank {rank}: {row}"

    def check_the_end(self) -> None:
        assert logged(self.run) == self.whole.losses
        assert scores(self.run) == self.whole.scores
        assert checkpoints.choose(self.run).step == self.whole.chosen
        last = len(self.whole.steps)
        kept = sorted((self.run / "checkpoints").iterdir())
        assert kept == checkpoints.published(self.run)
        # Killed between its last checkpoint and the end, a run is complete: a start leaves the older ones as they are.
        trained = output(self.place / f"start-{self.starts}", 0)
        expected = len({self.whole.chosen, *map(step_of, kept[-KEEP:])})
        assert len(kept) == expected or (not trained and len(kept) > expected)
        assert [path for path in self.run.rglob("*") if path.name.startswith(".")] == []
        assert self.newest() == last


def test_whatever_is_killed_the_run_goes_on_exactly(
    tmp_path: Path, refcoco: Path, undisturbed: dict[str, Undisturbed]
) -> None:
    done, seed = 0, SEED
    while done < POINTS:
        stage = STAGES[seed % len(STAGES)]
        lap = Lap(tmp_path / f"lap-{seed}", refcoco, undisturbed[stage], seed, stage)
        lap.place.mkdir()
        try:
            done += lap.walk(POINTS - done)
        except BaseException:
            print(f"again: make fuzz SEED={seed} POINTS={max(5, lap.points + 1)}")
            raise
        print(f"{done} of {POINTS} points: seed {seed} (ZeRO {stage}) came to its end in {lap.starts} starts")
        seed += 1
