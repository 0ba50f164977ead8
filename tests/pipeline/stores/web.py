"""A web server of a folder that answers requests for ranges, and fails at them as it is told to."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# What is done in place of an answer; False where the answer is given after it.
Fault = Callable[["Handler", bytes], bool]


class Handler(SimpleHTTPRequestHandler):
    """Answers HEAD and GET, the latter with the range that is wanted."""

    server: Web

    def do_HEAD(self) -> None:
        if self.server.down:
            self.send_error(503)
        else:
            super().do_HEAD()

    def do_GET(self) -> None:
        if self.server.down:
            self.send_error(503)
            return
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        size = file.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.server.ranges else None
        first, last = (int(wanted[1]), int(wanted[2])) if wanted else (0, size - 1)
        with file.open("rb") as stream:
            stream.seek(first)
            part = stream.read(last + 1 - first)
        fault = self.server.fault(self.path)
        if fault and fault(self, part):
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{size}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


class Web(ThreadingHTTPServer):
    """Serves a folder; ``faults`` are used up one a request of a path that ends in ``of``, the first first."""

    daemon_threads = True
    request_queue_size = 128  # or those that come together are let wait for a second

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), lambda *given: Handler(*given, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults: list[Fault] = []
        self.of: str | tuple[str, ...] = ".tar"
        self.ranges = True
        self.down = False  # whether it answers nothing
        self.failed = 0
        self.gets = 0  # of paths that end so
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def fault(self, path: str) -> Fault | None:
        with self._lock:
            self.gets += path.endswith(self.of)
            if path.endswith(self.of) and self.faults:
                self.failed += 1
                return self.faults.pop(0)
        return None


def reset(handler: Handler, data: bytes) -> bool:
    """The connection ends in the middle of the answer."""
    handler.send_response(206)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.wfile.flush()
    handler.connection.close()
    return True


def slow(handler: Handler, data: bytes) -> bool:
    """The answer takes its time."""
    time.sleep(1)
    return False


def short(handler: Handler, data: bytes) -> bool:
    """A whole answer of half of the bytes."""
    half = data[: len(data) // 2]
    handler.send_response(206)
    handler.send_header("Content-Length", str(len(half)))
    handler.end_headers()
    handler.wfile.write(half)
    return True


def busy(handler: Handler, data: bytes) -> bool:
    """The server has no time."""
    handler.send_error(503)
    return True


def other(handler: Handler, data: bytes, place: int = 0) -> bool:
    """As many bytes, one of them changed."""
    changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    handler.send_response(206)
    handler.send_header("Content-Length", str(len(changed)))
    handler.end_headers()
    handler.wfile.write(changed)
    return True
