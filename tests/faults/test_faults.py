"""One call of the file system fails, anywhere in training, evaluating, building and launching.

A command then either waits the fault out and ends as it would have, or it stops with one line that says what could not
be done. Whatever it did, the same command without a fault comes to the very end of an undisturbed one, and no
checkpoint that was there is lost.

`make faults` tries 300 points, an ordinary run of the tests a few. A failure prints its point; `make faults SEED=7
POINTS=1` tries the first one of that seed. TABLE=docs/faults.md writes the page of what came of them.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from laconvnet.pipeline.runs import checkpoints
from tests.faults.commands import ROOT, Scenario, Server, build, digest, tree, undisturbed
from tests.faults.table import page

TINY = ROOT / "tests" / "pipeline" / "training" / "tiny.yaml"
POINTS, SEED = int(os.environ.get("POINTS", "10")), int(os.environ.get("SEED", "0"))
# What each call can say of a disk or a file server, and how often in a row: once, and for ever (0).
ERRORS = {
    "open": (errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC),
    "list": (errno.EIO, errno.ESTALE, errno.EACCES),
    "read": (errno.EIO, errno.ESTALE, 0),
    "write": (errno.ENOSPC, errno.EIO),
    "rename": (errno.EIO, errno.ENOSPC, errno.EACCES),
    "link": (errno.EIO, errno.EACCES),
    "sync": (errno.EIO, errno.ENOSPC),
}


@dataclass(frozen=True)
class Point:
    """A fault: the N-th call of a kind, so often in a row (0: from there on always), fails so (0: is short)."""

    scenario: str
    kind: str
    number: int
    times: int
    error: int

    @classmethod
    def drawn(cls, draw: random.Random, scenario: str, counts: dict[str, int]) -> Point:
        kind = draw.choice([kind for kind in ERRORS if counts[kind]])
        return cls(scenario, kind, draw.randint(1, counts[kind]), draw.choice([1, 1, 0]), draw.choice(ERRORS[kind]))

    @property
    def fault(self) -> str:
        return f"{self.kind}:{self.number}:{self.times}:{self.error}"

    def __str__(self) -> str:
        how = errno.errorcode[self.error] if self.error else "short"
        return f"{self.scenario}: {self.kind} {self.number} {'and all after it ' if not self.times else ''}{how}"


def trained(place: Path) -> object:
    (last,) = (found.folder for found in [next(checkpoints.survey(place / "run"))] if found.is_whole)
    rows = (json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines() if line.endswith("}"))
    left = [path.name for path in (place / "run").rglob("*") if path.name.startswith(".") or path.name == "owner.json"]
    return checkpoints.read_marker(last).files, {row["step"]: row["loss"] for row in rows}, left


def whole(place: Path) -> list[int]:
    return [int(found.folder.name[5:]) for found in checkpoints.survey(place / "run") if found.is_whole]


def train(place: Path) -> list[str]:
    keys = ["--schedule.epochs", "0.5", "--checkpoint.every", "1", "--data.batch", "8"]
    return ["train", "--config", str(TINY), "--run", str(place / "run"), "--data.folder", str(place / "set"), *keys]


def evaluate(place: Path) -> list[str]:
    return ["eval", str(place / "run"), "--data", str(place / "set"), "--split", "val", "--out", str(place / "result")]


def launch(place: Path) -> list[str]:
    return ["launch", str(place / "stages.yaml"), "--cluster", "local", "--out", str(place / "runs")]


def launched(place: Path) -> object:
    (folder,) = (place / "runs").glob("data-*")
    assert json.loads((folder / "DONE.json").read_text())["stage"] == "data"
    return tree(folder / "raw")


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory, server: Server) -> dict[str, Scenario]:
    from laconvnet.shards.synthetic import generate

    made = tmp_path_factory.mktemp("made")
    raw, ready, halfway, stages = made / "a", made / "b", made / "c", made / "d"
    raw.mkdir()
    generate(raw / "raw", pictures=12, size=64, progress=False)
    assert server.run([*build(raw)[:-1], str(ready / "set")], made)[0] == 0
    shutil.copytree(ready, halfway)
    assert server.run(train(halfway), made)[0] == 0
    (*_, last) = checkpoints.published(halfway / "run")
    shutil.rmtree(last)
    stages.mkdir()
    (stages / "stages.yaml").write_text(
        "name: one\nfolder: runs\nstages:\n  data:\n    threads: 1\n"
        '    run: [shards, generate, --out, "{here}/raw", --pictures, 4, --size, 64]\n'
    )
    return {
        "train": Scenario(train, ready, trained, whole),
        "resume": Scenario(train, halfway, trained, whole),
        "eval": Scenario(evaluate, halfway, lambda place: digest(place / "result")),
        "build": Scenario(build, raw, lambda place: tree(place / "built")),
        "launch": Scenario(launch, stages, launched),
    }


def one_line(output: str) -> bool:
    """Whether a command said why it stopped, in a line of its own that names a file or what could not be done."""
    said = [line for line in output.splitlines() if re.search(r"\blaconvnet: \S|: FAILED .*(Error|Errno)", line)]
    return "Traceback" not in output and bool(said)


def test_whatever_fails_it_is_told_and_nothing_is_lost(
    tmp_path: Path, server: Server, scenarios: dict[str, Scenario]
) -> None:
    place = tmp_path / "place"  # always the same: paths are in what is written
    ends, counts = undisturbed(server, scenarios, place)
    outcomes: list[tuple[Point, str]] = []
    failures: list[str] = []
    for seed in range(SEED, SEED + POINTS):
        name = list(scenarios)[seed % len(scenarios)]
        point = Point.drawn(random.Random(seed), name, counts[name])
        try:
            outcomes.append((point, tried(server, scenarios[name], place, point, ends[name])))
        except AssertionError as error:
            outcomes.append((point, "wrong"))
            failures.append(f"seed {seed}: {point}; again: make faults SEED={seed} POINTS=1\n{error}")
        print(f"seed {seed}  {point}: {outcomes[-1][1]}", flush=True)
    print(f"{POINTS} points: {dict(Counter(outcome for _, outcome in outcomes))}", flush=True)
    if file := os.environ.get("TABLE"):
        Path(file).write_text(page(outcomes, SEED))
    assert not failures, "\n\n".join(failures)


def tried(server: Server, scenario: Scenario, place: Path, point: Point, end: object) -> str:
    """What came of a command with a fault; fails where anything else did than may."""
    before = scenario.kept(scenario.begin(place))
    code, output, _ = server.run(scenario.argv(place), place, point.fault)
    assert code in (0, 1, 2), f"exit code {code}\n{output}"
    assert code == 0 or one_line(output), f"exit code {code}, and not told in one line\n{output}"
    assert code or scenario.end(place) == end, f"another end\n{output}"
    kept = scenario.kept(place)
    assert not before or max(kept, default=0) >= max(before), f"a checkpoint is lost\n{output}"
    then, output_then, _ = server.run(scenario.argv(place), place)
    both = f"{output}\n--- the next start:\n{output_then}"
    assert then == 0, f"exit code {then}\n{both}"
    assert scenario.end(place) == end, f"another end\n{both}"
    assert max(scenario.kept(place), default=0) >= max(kept, default=0), f"a checkpoint is lost\n{both}"
    return "told" if code else "waited out"
