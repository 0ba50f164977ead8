"""Parts of a run, one after the other: each within its own time and all within one, whatever happens to any of them.

Only the standard library is needed here.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

LOG = "gpu-log.txt"  # what the parts wrote to standard error
PASSED, FAILED, NOT_RUN = "passed", "FAILED", "not run"
GRACE = 4.0  # seconds that a part has to tell how far it came, once it is asked to end
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FULL = 0.8  # of the time that a command has, what it is told of: the rest is for starting and for ending in order


class Interrupted(BaseException):
    """The run was told to end, by this signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Command:
    """Words to run, whose standard output goes to this file. {minutes} in a word is what time there is."""

    words: tuple[str, ...]
    file: str = LOG


@dataclass(frozen=True)
class Part:
    """Commands that run one after the other, in ``limit`` seconds at most, and not at all where fewer than ``least``
    are left or something ``lacks``."""

    name: str
    limit: float
    least: float
    commands: tuple[Command, ...]
    lacks: str | None = None


@dataclass
class Outcome:
    """What became of a part: its state, why, the seconds it took and the last line it said."""

    name: str
    state: str
    why: str = ""
    seconds: float = 0.0
    said: str = ""


class Runner:
    """Runs parts in ``folder`` until ``seconds`` are over, a row of ``outcomes`` for each.

    A part is a process group of its own: with it goes all that it started. ``told`` hears of each outcome.
    """

    def __init__(
        self, folder: Path, seconds: float, environment: dict[str, str], told: Callable[[list[Outcome]], None]
    ) -> None:
        self.folder, self.environment, self.told = folder, environment, told
        self.end = time.monotonic() + seconds
        self.outcomes: list[Outcome] = []
        self._running: subprocess.Popen[bytes] | None = None

    def run(self, parts: Sequence[Part]) -> int:
        """All parts, in this order; 0, or the number of the signal that ended it early."""
        before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
        try:
            for part in parts:
                self._add(self._outcome(part))
        except Interrupted as interruption:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # the table is being written
            state = FAILED if self._running else NOT_RUN
            self._stop(1.0)
            for part in parts[len(self.outcomes) :]:
                self._add(Outcome(part.name, state, f"interrupted by {interruption}"))
                state = NOT_RUN
            return interruption.number
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0

    def _add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.told(self.outcomes)

    def _outcome(self, part: Part) -> Outcome:
        if part.lacks:
            return Outcome(part.name, NOT_RUN, part.lacks)
        left = self.end - time.monotonic() - GRACE
        if left < part.least:
            return Outcome(part.name, NOT_RUN, f"{max(left, 0):.0f} s were left, it needs {part.least:.0f}")
        begun, allowed = time.monotonic(), min(part.limit, left)
        code, said = 0, ""
        for command in part.commands:
            # One that fails keeps nothing from the next.
            ended, line = self._run(part, command, begun + allowed)
            code, said = code or ended, line or said
            if time.monotonic() >= begun + allowed:
                break
        seconds = time.monotonic() - begun
        why = f"stopped after {allowed:.0f} s" if seconds >= allowed else f"exit code {code}" if code else ""
        return Outcome(part.name, FAILED if why else PASSED, why, seconds, said)

    def _run(self, part: Part, command: Command, end: float) -> tuple[int, str]:
        """The exit code and the last line of one command."""
        left = end - time.monotonic()
        minutes = f"{_FULL * left / 60:.3f}"
        words = [word.replace("{minutes}", minutes) for word in command.words]
        files = [self.folder / name for name in dict.fromkeys((command.file, LOG))]  # os.devnull stays what it is
        for file in files:
            with file.open("a") as kept:
                kept.write(f"== {part.name}: {shlex.join(words)}\n")
        sizes = [file.stat().st_size for file in files]
        with files[0].open("ab") as out, files[-1].open("ab") as log:
            try:
                self._running = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=self.environment, process_group=0
                )
                code = self._running.wait(left)
            except subprocess.TimeoutExpired:
                code = 124
            except OSError as error:
                return 127, str(error)
            self._stop(GRACE)
        last = [_last_line(file, size) for file, size in zip(files, sizes, strict=True)]
        return code, next(filter(None, reversed(last) if code else last[:1]), "")

    def _stop(self, grace: float) -> None:
        """End what runs, and all that it started: asked first, so that pytest tells what it found."""
        if self._running is None:
            return
        if self._running.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._running.wait(grace)
        with suppress(ProcessLookupError):
            os.killpg(self._running.pid, signal.SIGKILL)
        self._running.wait()
        self._running = None


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _last_line(file: Path, start: int) -> str:
    """The last line behind this byte that says anything."""
    with file.open("rb") as kept:
        kept.seek(max(start, file.stat().st_size - 4096))
        lines = [line.strip() for line in kept.read().decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")
