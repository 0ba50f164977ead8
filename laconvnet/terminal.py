"""What reaches a terminal: texts of others (annotations, file names, logs) with nothing in them that a terminal obeys.

An escape sequence moves the cursor, rewrites what was printed or sets the clipboard; a carriage return covers a line
with another; a bidirectional control shows a text in an order that it does not have (Unicode TR 36, 3.8). All of them
are printed as Python writes them in a literal, \\x1b or \\u202e. All that this package prints goes through `say`; a
table's cells go through `one_line` before it is drawn, because what draws it speaks to the terminal itself.

JSON for programs needs none of this: `json.dumps` writes ASCII. This module knows the standard library only.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any, TextIO

_CONTROLS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for tab and line feed, DEL, C1 (one-byte escape sequences)
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # surrogates, which no stream can encode
    "\U000e0000-\U000e007f"  # tags: invisible text
)
_LONGEST_LINE = 10_000  # characters of a message; a value quoted in one can have millions
_CONTROL = re.compile(f"[{_CONTROLS}]")
_CONTROL_OR_BREAK = re.compile(f"[\t\n{_CONTROLS}]")


def printable(text: str) -> str:
    """The text with every control character but tab and line feed written out: ESC as \\x1b."""
    return _CONTROL.sub(_written_out, text)


def one_line(text: str) -> str:
    """The same, on one line: tab and line feed are written out as well."""
    return _CONTROL_OR_BREAK.sub(_written_out, text)


def say(text: str = "", stream: TextIO | None = None, end: str = "\n") -> None:
    """Print a text, made `printable`, to a stream (default: standard output) at once.

    A stream that lacks a letter (LC_ALL=C) gets it written out too.
    """
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=stream, end=end, flush=True)


def complain(text: str) -> None:
    """`say` it on standard error, no line of it without end."""
    say("\n".join(map(_shortened, text.split("\n"))), sys.stderr)


def install() -> None:
    """Send what Python prints by itself (warnings, log records, the traceback of a fault of ours) the same way."""
    sys.excepthook = _tell_exception
    threading.excepthook = _tell_thread
    warnings.showwarning = _tell_warning
    logging.lastResort = _Handler(logging.WARNING)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(self.format(record))


def _tell_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    complain("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def _tell_thread(failed: threading.ExceptHookArgs) -> None:
    name = failed.thread.name if failed.thread else "a thread"
    if isinstance(failed.exc_value, OSError) and failed.exc_value.errno is not None:
        complain(f"{name}: {failed.exc_value}")  # a disk, no fault of ours: whoever waits for the thread says the rest
    elif failed.exc_value is not None:
        complain(f"{name}:")
        _tell_exception(failed.exc_type, failed.exc_value, failed.exc_traceback)


def _tell_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    complain(warnings.formatwarning(message, category, filename, lineno, line).rstrip("\n"))


def _shortened(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    half = _LONGEST_LINE // 2
    return f"{line[:half]} ... {len(line) - 2 * half} characters ... {line[-half:]}"


def _written_out(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]
