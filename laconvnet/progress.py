"""Progress of long work on standard error: a bar on a terminal, else a line now and then.

A bar that is redrawn in place fills a log file, or whatever reads a pipe, with hundreds of copies of itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from laconvnet.terminal import say

if TYPE_CHECKING:
    Bar = tqdm[Any]
else:  # the class itself has no type parameter, its stubs have
    Bar = tqdm
SECONDS = 15.0  # before the first line, and between two


class Progress(Bar):
    """tqdm's bar, with its arguments; where standard error is no terminal, it writes lines.

    Work that ends before the first line is due writes none; other work writes one more at its end.
    """

    def __init__(
        self, iterable: Iterable[Any] | None = None, desc: str | None = None, total: float | None = None, **options: Any
    ) -> None:
        self.delay: float = 0.0
        self._lines = not sys.stderr.isatty()
        if self._lines:
            told = "{desc}: {n_fmt}/{total_fmt} {unit}, {rate_fmt}, {elapsed} so far, {remaining} left"
            options |= {"mininterval": SECONDS, "delay": SECONDS, "miniters": 1, "bar_format": told}
        super().__init__(iterable, desc, total, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or write its line."""
        if self._lines:
            say(str(self) if msg is None else msg, self.fp)
        else:
            super().display(msg, pos)

    def close(self) -> None:
        """End it; with the last line, where there were others."""
        if self._lines and not self.disable:
            if self.last_print_t >= self.start_t + self.delay and self.n > self.last_print_n:
                self.display()
            self.delay = float("inf")  # nothing is on the screen that tqdm would have to clear
        super().close()
