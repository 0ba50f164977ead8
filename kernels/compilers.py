"""Runs a compiler, and tells its verdict on the sources from what happened to it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

# A compiler that had no memory, no room or no time says nothing about the sources: the next try may go well.
_ACCIDENT = re.compile(
    r"due to signal|with signal|signal terminated|terminated program|\bkilled\b|out of memory|memory exhausted|"
    r"cannot allocate|no space left|disk quota|resource temporarily|input/output error|stale file|read-only file|"
    r"cannot open|can't open|could not open|no such file|permission denied|internal compiler error|internal error|"
    r"segmentation|core dumped",
    re.IGNORECASE,
)
_NO_ROOM = re.compile(r"no space left|disk quota|read-only file", re.IGNORECASE)
_ERROR = re.compile(r"\berror\s*:", re.IGNORECASE)
_BY_SIGNAL = range(129, 160)  # a shell's: 128 and the signal that ended a program (255 is nvcc's own, of an error)


class BuildError(RuntimeError):
    """A library cannot be had: one line that says why, and names the file of the compiler's output if there is one."""


class CompilerError(BuildError):
    """A compiler failed: its first line that tells of an error, and all its `words`, with `how` it ended below them.

    `verdict`: it found the sources wrong, and would again. `no_room`: it could not write where it was told to.
    """

    def __init__(self, words: str, verdict: bool, how: str = "the compiler failed") -> None:
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()] or lines[-1:]
        super().__init__(telling[0] if telling else f"{how}, without a word")
        self.words, self.verdict, self.no_room = f"{words}\n{how}\n", verdict, bool(_NO_ROOM.search(words))


def run(command: Sequence[str | Path], seconds: float) -> str:
    """What the command printed. Raises CompilerError where it failed, was ended or has not ended in time."""
    line = " ".join(map(str, command))
    # A file and no pipe: what the compiler had started itself may outlive it, and would hold a pipe open.
    with tempfile.TemporaryFile() as output:
        try:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=seconds, check=False
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise CompilerError(f"error: no end after {seconds:g} s: {line}", verdict=False) from error
        except OSError as error:
            raise CompilerError(f"error: {line}: {error}", verdict=False) from error
        output.seek(0)
        words = output.read().decode(errors="replace")
    if code < 0:
        raise CompilerError(f"error: ended by signal {-code}: {line}\n{words}", verdict=False)
    if code:
        verdict = code not in _BY_SIGNAL and bool(_ERROR.search(words)) and not _ACCIDENT.search(words)
        raise CompilerError(words, verdict, f"exit code {code}: {line}")
    return words
