"""What a launch shows: where it is, what comes next, how far the running stages are. Everything goes to one stream."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

LINE_SECONDS = 15.0  # between two lines of progress where the stream is no terminal
TICK_SECONDS = 0.5  # between two redraws where it is one


def clock(seconds: float | None) -> str:
    """Seconds as people read them: 42 s, 3:05, 1:02:03; - for None."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as aligned text; `columns` maps keys to headings, None is shown as -."""
    cells = [list(columns.values())]
    cells += [["-" if row.get(key) is None else str(row[key]) for key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


class Screen:
    """Lines that stay, and under them on a terminal one live line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self._drawn = False
        self._last = time.monotonic()
        self._shown: dict[str, str] = {}

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._clear()
        print(text, file=self.stream, flush=True)

    def progress(self, newest: Callable[[], Mapping[str, str]]) -> None:
        """Show the newest progress of each running stage, in place or as a line now and then; asks for it only then."""
        now = time.monotonic()
        if now - self._last < (TICK_SECONDS if self.live else LINE_SECONDS):
            return
        self._last = now
        texts = {stage: text for stage, text in newest().items() if text}
        if self.live:
            self._clear()
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(" | ".join(f"{stage}: {text}" for stage, text in texts.items())[:width])
            self.stream.flush()
            self._drawn = True
            return
        for stage, text in texts.items():
            if self._shown.get(stage) != text:
                print(f"  {stage}: {text}", file=self.stream, flush=True)
        self._shown = texts

    def _clear(self) -> None:
        if self._drawn:
            self.stream.write("\r\x1b[K")
            self._drawn = False
