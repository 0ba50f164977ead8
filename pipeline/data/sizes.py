"""A watch over the files that a run has mapped: one that is cut off would end the process without a word (SIGBUS)."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from laconvnet.pipeline.distributed import is_first_of_node
from laconvnet.pipeline.errors import TrainingError
from laconvnet.shards.format.manifest import EXAMPLES_MAP, SAMPLES_MAP, Manifest

_LOOK_SECONDS = 10.0


class Sizes:
    """Looks every few seconds whether a set's mapped tables are as long as they were: use it in a ``with``.

    One process a node looks. Where a table is shorter, a stop signal is noted in ``signals``, as if it had been sent:
    the run saves and leaves, if no process reads what is gone before that. A file that another one was renamed over is
    read on as it was, so it is fine; what cannot be looked at is left to those who read it.
    """

    def __init__(self, manifest: Manifest, signals: list[int], seconds: float = _LOOK_SECONDS) -> None:
        watched = [manifest.folder / name for name in (SAMPLES_MAP, EXAMPLES_MAP)] if is_first_of_node() else []
        self._files = {file: _identity(file) for file in watched}
        self._signals, self._seconds = signals, seconds
        self._reason: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sizes", daemon=True)

    def __enter__(self) -> Sizes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raises TrainingError, naming the file, where one was cut off."""
        if self._reason:
            raise TrainingError(self._reason)

    def _watch(self) -> None:
        while not self._reason and not self._ended.wait(self._seconds):
            self._look()

    def _look(self) -> None:
        for file, before in self._files.items():
            now = _identity(file)
            if before and now and now[:2] == before[:2] and now[2] < before[2]:
                self._reason = (
                    f"{file}: was cut from {before[2]} to {now[2]} bytes while it was read; the run has saved and "
                    "stopped: put the set back and start the run again, it goes on"
                )
                self._signals.append(signal.SIGTERM)


def _identity(file: Path) -> tuple[int, int, int] | None:
    """Device, inode and size of a file, None where it cannot be looked at."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size
