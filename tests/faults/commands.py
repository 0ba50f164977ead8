"""Commands with a fault of the file system, each in a fork of a process that has imported what it needs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NO_FAULT = "open:0:0:0"  # calls are counted


class Server:
    """The process that commands are forked from."""

    def __init__(self, place: Path) -> None:
        library = place / "faults.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O2", "-o", library, HERE / "faults.c", "-ldl", "-pthread"], check=True
        )
        environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._place, self._runs = place, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, argv: list[str], folder: Path, fault: str = NO_FAULT) -> tuple[int, str, dict[str, int]]:
        """Exit code and output of a command, and how many calls of each kind it made below a folder.

        ``fault`` is one of faults.c, without the folder. A command that is killed leaves no counts.
        """
        self._runs += 1
        log, counts = self._place / f"{self._runs}.log", self._place / f"{self._runs}.counts"
        request = {"argv": argv, "variables": {"FAULTS": f"{fault}:{folder}"}, "log": str(log), "counts": str(counts)}
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        made = dict(line.split() for line in counts.read_text().splitlines()) if counts.exists() else {}
        return code, log.read_text(errors="replace"), {kind: int(count) for kind, count in made.items()}

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)


@dataclass(frozen=True)
class Scenario:
    """A command, the folder that it begins with (None: an empty one), and what its end is known by."""

    argv: Callable[[Path], list[str]]
    start: Path | None
    end: Callable[[Path], object]
    kept: Callable[[Path], list[int]] = lambda _: []  # the whole checkpoints

    def begin(self, place: Path) -> Path:
        shutil.rmtree(place, ignore_errors=True)
        if self.start:
            shutil.copytree(self.start, place)
        else:
            place.mkdir()
        return place


def undisturbed(
    server: Server, scenarios: dict[str, Scenario], place: Path
) -> tuple[dict[str, object], dict[str, dict[str, int]]]:
    """Each scenario without a fault, in the same place: its end, and its calls by kind, by the scenario's name."""
    ends, counts = {}, {}
    for name, scenario in scenarios.items():
        scenario.begin(place)
        code, output, counts[name] = server.run(scenario.argv(place), place)
        assert code == 0, f"{name}:\n{output}"
        ends[name] = scenario.end(place)
        print(f"{name}: {', '.join(f'{count} {kind}' for kind, count in counts[name].items())}", flush=True)
    return ends, counts


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def build(place: Path) -> list[str]:
    return ["shards", "build", "refcoco", "--root", str(place / "raw" / "refer"), "--out", str(place / "built")]
