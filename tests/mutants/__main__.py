"""The tests' own test: `make mutants`. Each mutant of a guarded file should fail one of the tests that guard it.

    MUTANTS  how many are drawn (200)
    SEED     by which they are drawn (0): the same mutants again, and a run that was broken off is continued
    FILES    only of files whose path holds one of these words
    ONLY     only mutants whose name, FILE:LINE:KIND, begins with one of these: all of them, none is drawn
    PASS     the score, in percent, below which this exits 1 (95)

A script of our own: mutmut and cosmic-ray take a module's name from its path, which the folders of this project do not
have as they are installed; the one runs all tests of a function, the other mutates the working tree.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.mutants.changes import Identity, Mutant, mutants_of
from tests.mutants.guards import GUARDS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "mutants.jsonl"
EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
_PLUGINS = ["-p", "no:xdist", "-p", "no:cacheprovider", "-p", "tests.mutants.quick"]
_MEMORY_BYTES = 8 * 2**30  # a mutant may well ask for more than there is


class Broken(Exception):
    """The run itself cannot go on: one line for the user."""


def drawn(count: int, seed: int, words: list[str], only: list[str]) -> list[Mutant]:
    """The mutants of this run."""
    files = [file for file in sorted(GUARDS) if any(word in file for word in words)]
    found = [mutant for file in files for mutant in mutants_of(file, (ROOT / file).read_text())]
    if only:
        return [mutant for mutant in found if mutant.name.startswith(tuple(only))]
    return random.Random(seed).sample(found, min(count, len(found)))


def equivalents() -> set[Identity]:
    """The mutants that have a verdict: that no test can tell them from the code."""
    rows = tomllib.loads(EQUIVALENTS.read_text())["equivalent"]
    return {(row["file"], row["kind"], row["line"], row["change"]) for row in rows if row["verdict"]}


class Copy:
    """A copy of the tree, in which mutants are tried."""

    def __init__(self, place: Path) -> None:
        self._place, self.tree = place, place / "tree"
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
            if name and (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        self._output = place / "output.log"
        self._limits: dict[str, float] = {}

    def limit(self, test: str) -> float:
        """How many seconds a file of tests may take; raises Broken where it fails without any mutant."""
        if test not in self._limits:
            began = time.monotonic()
            if code := self._run(test, 3600.0):
                kept = shutil.copy(self._output, RESULTS.with_suffix(".log"))
                raise Broken(f"{test}: exit code {code} without a mutant: mend it first; its output: {kept}")
            self._limits[test] = 3 * (time.monotonic() - began) + 30
        return self._limits[test]

    def attempt(self, mutant: Mutant) -> str:
        """Whether a mutant was `killed`, `survived` or `timed out`: one file of tests after the other."""
        for test in GUARDS[mutant.file]:
            limit = self.limit(test)  # a slow one is measured when the first mutant comes as far
            with self._holding(mutant):
                code = self._run(test, limit)
            if code != 0:
                return "timed out" if code is None else "killed"
        return "survived"

    @contextmanager
    def _holding(self, mutant: Mutant) -> Iterator[None]:
        original = (ROOT / mutant.file).read_text()
        try:
            self._write(mutant.file, mutant.text)
            yield
        finally:
            self._write(mutant.file, original)

    def _write(self, name: str, text: str) -> None:
        file = self.tree / name
        file.write_text(text)
        # Python takes bytecode by the second and the size of its source, and a mutant may share both.
        for stale in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            stale.unlink()

    def _run(self, test: str, seconds: float) -> int | None:
        temporary = self._place / "tmp"
        temporary.mkdir()
        variables = {"PYTHONPATH": str(self.tree), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", *_PLUGINS]
        with self._output.open("wb") as log:
            process = subprocess.Popen(
                [*command, test],
                cwd=self.tree,
                env=os.environ | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES)),
            )
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # with all that the tests have started
                process.wait()
                shutil.rmtree(temporary, ignore_errors=True)


def key_of(mutant: Mutant, verdict: str, tree: Path) -> str:
    """What a result holds for: the mutated text, and where it is no kill the tests as they stand, too."""
    parts = [mutant.file, mutant.text, verdict]
    if verdict != "killed":
        parts += [(tree / test).read_text() for test in GUARDS[mutant.file]]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def known() -> set[str]:
    """The keys of the results so far."""
    if not RESULTS.exists():
        return set()
    rows: list[dict[str, Any]] = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {row["key"] for row in rows}


def judged(mutants: list[Mutant], copy: Copy) -> Iterator[tuple[Mutant, str]]:
    """The verdict on each mutant, a line each, kept for the next run."""
    excused, before = equivalents(), known()
    for number, mutant in enumerate(mutants, 1):
        began = time.monotonic()
        found = [
            verdict for verdict in ("killed", "survived", "timed out") if key_of(mutant, verdict, copy.tree) in before
        ]
        if mutant.identity in excused:
            verdict = "equivalent"
        elif found:
            verdict = found[0]
        else:
            verdict = copy.attempt(mutant)
            row = {
                "key": key_of(mutant, verdict, copy.tree),
                "verdict": verdict,
                "name": mutant.name,
                "change": mutant.change,
            }
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
        seconds = time.monotonic() - began
        print(f"{number:4d}/{len(mutants)} {verdict:10s} {seconds:5.1f} s  {mutant.name}  {mutant.change}", flush=True)
        yield mutant, verdict


def report(results: list[tuple[Mutant, str]], passing: float) -> int:
    """Print what became of the mutants, worst last; 1 where too many live."""
    counts = Counter(verdict for _, verdict in results)
    stopped = counts["killed"] + counts["timed out"]
    tried = stopped + counts["survived"]
    score = 100 * stopped / tried if tried else 100.0
    names = ("killed", "timed out", "survived", "equivalent")
    print("\n" + ", ".join(f"{counts[name]} {name}" for name in names) + f"; score {score:.1f} % of {tried}")
    for mutant, verdict in sorted(results, key=lambda result: (result[0].file, result[0].number)):
        if verdict == "survived":
            print(f"  survived  {mutant.name}  {mutant.change}\n            {mutant.line}")
    return int(score < passing)


def main() -> int:
    take = os.environ.get
    try:
        count, seed = int(take("MUTANTS") or 200), int(take("SEED") or 0)
        passing = float(take("PASS") or 95)
        mutants = drawn(count, seed, (take("FILES") or "/").split(), (take("ONLY") or "").split())
    except ValueError as error:
        print(f"MUTANTS, SEED, PASS: expected numbers ({error})", file=sys.stderr)
        return 2
    if not mutants:
        print("FILES, ONLY: no mutant of such a file or name; tests/mutants/guards.py lists the files", file=sys.stderr)
        return 2
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    results: list[tuple[Mutant, str]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as place:
        try:
            results.extend(judged(mutants, Copy(Path(place))))
        except Broken as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            report(results, passing)
            return 130
    return report(results, passing)


if __name__ == "__main__":
    sys.exit(main())
