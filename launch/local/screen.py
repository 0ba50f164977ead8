"""What a launch shows: where it is, what comes next, how far the running stages are. Everything goes to one stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.live import Live
from rich.text import Text

from laconvnet.launch.table import console, drawn, write
from laconvnet.terminal import one_line, say

LINE_SECONDS = 15.0  # between two lines of progress where the stream is no terminal
TICK_SECONDS = 0.5  # between two redraws where it is one


class Screen:
    """Lines that stay, and under them on a terminal one live line, until it is closed."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._console = console(stream)
        self._live: Live | None = None
        self._last = time.monotonic()
        self._shown: dict[str, str] = {}

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.close()
        say(text, self.stream)

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
        """Print a table that stays; `columns` maps keys to headings."""
        self.close()
        write(drawn(rows, columns), self.stream)

    def progress(self, newest: Callable[[], Mapping[str, str]]) -> None:
        """Show the newest progress of each running stage, in place or as a line now and then; asks for it only then."""
        now = time.monotonic()
        if now - self._last < (TICK_SECONDS if self._console.is_terminal else LINE_SECONDS):
            return
        self._last = now
        texts = {stage: one_line(text) for stage, text in newest().items() if text}
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, transient=True, auto_refresh=False)
                self._live.start()
            line = " | ".join(f"{stage}: {text}" for stage, text in texts.items())
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
            return
        for stage, text in texts.items():
            if self._shown.get(stage) != text:
                say(f"  {stage}: {text}", self.stream)
        self._shown = texts

    def close(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None
