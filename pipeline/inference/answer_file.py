"""A file of answers, one JSON object a line, that grows in the order of what is asked."""

from __future__ import annotations

import errno
import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from laconvnet.files import naming
from laconvnet.pipeline.errors import WRONG_PATH, ConfigError

Facts = dict[str, Any]


@contextmanager
def opened(file: Path, asked: Iterable[list[Facts]]) -> Iterator[tuple[IO[str], int]]:
    """The file, to write behind what it holds already; and how many of the asked that answers.

    ``asked`` is what the lines of each one repeat. What a kill has left of a line, or of the lines of one, goes. Raises
    ConfigError where the file cannot be written or another process writes it, and where it holds answers to anything
    else.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with naming(file), file.open("a+", encoding="utf-8") as stream:
            _lock(file, stream)
            done, end = _answered(file, asked)
            stream.truncate(end)
            yield stream, done
    except OSError as error:
        if not isinstance(error, WRONG_PATH) and error.errno != errno.EROFS:
            raise
        raise ConfigError(f"--out: {file}: cannot be written ({error.strerror}); choose another place") from error


def _lock(file: Path, stream: IO[str]) -> None:
    """Alone among all processes, until the stream is closed; where a file server has no locks, without one."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        told = "another process is writing it; wait for it, or choose another file"
        raise ConfigError(f"--out: {file}: {told}") from error
    except OSError:  # ENOLCK, ENOTSUP, EIO: whatever a server says that has none
        pass


def _answered(file: Path, asked: Iterable[list[Facts]]) -> tuple[int, int]:
    """How many of the asked the file answers, and where the last of their lines ends."""
    done, end, number = 0, 0, 0
    with file.open("rb") as stream:
        for expected in asked:
            for facts in expected:
                line, number = stream.readline(), number + 1
                if not line.endswith(b"\n"):
                    return done, end
                _check(file, number, line, facts)
            done, end = done + 1, stream.tell()
        if stream.read(1):
            raise ConfigError(f"--out: {file}: holds more answers than are asked for; choose another file")
    return done, end


def _check(file: Path, number: int, line: bytes, facts: Facts) -> None:
    try:
        found = json.loads(line)
        differs = next((key for key, value in facts.items() if found[key] != value), None)
        told = "" if differs is None else f"{differs} is {found[differs]!r}, asked is {facts[differs]!r}"
    except (ValueError, KeyError, TypeError):
        told = "it is none of these answers"
    if told:
        raise ConfigError(
            f"--out: {file}: line {number}: {told}; choose another file, or remove this one to begin anew"
        )
