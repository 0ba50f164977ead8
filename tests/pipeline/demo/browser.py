"""A headless Chromium that is told what to do by the DevTools protocol, over a pair of pipes of its own.

The protocol is JSON with a zero byte behind each message, and needs neither a port nor a package.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
DEADLINE_SECONDS = 30
_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")


class CommandError(RuntimeError):
    """A command that the browser refuses."""


class Browser:
    """One page of it. `close` ends the process."""

    def __init__(self, profile: Path) -> None:
        (orders, self._orders), (self._reports, reports) = os.pipe(), os.pipe()
        given = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (orders, reports)]
        # The browser reads from descriptor 3 and writes to 4.
        line = f'exec "$0" "$@" 3<&{given[0]} 4>&{given[1]}'
        command = ["bash", "-c", line, str(CHROMIUM), *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=given, stderr=subprocess.DEVNULL)
        for descriptor in (orders, reports, *given):
            os.close(descriptor)
        self._number, self._read, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result; raises CommandError where the browser refuses it."""
        self._number += 1
        order: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        while True:
            message = self._message(time.monotonic() + DEADLINE_SECONDS)
            assert message is not None, f"{method}: no answer"
            if message.get("id") == self._number:
                if "error" in message:
                    raise CommandError(f"{method}: {message['error']}")
                return dict(message["result"])
            self.events.append(message)

    def open(self, address: str, width: int = 1200, height: int = 900) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to, a promise's value too."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until it is true."""
        self._until(lambda: self.value(f"Boolean({expression})"), expression)

    def event(self, method: str) -> dict[str, Any]:
        """Wait for the next event of this name, and take it."""

        def taken() -> dict[str, Any] | None:
            if message := self._message(time.monotonic() + 0.05):
                self.events.append(message)
            found = next((event for event in self.events if event.get("method") == method), None)
            if found:
                self.events.remove(found)
            return found

        return dict(self._until(taken, method)["params"])

    def text(self, selector: str) -> str:
        return str(self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str, named: str = "") -> None:
        """Click, as a mouse does, on what this selects, the first with this text."""
        found = f"""[...document.querySelectorAll({json.dumps(selector)})].find(
            (one) => one.innerText.trim().startsWith({json.dumps(named)}) && one.getClientRects().length)"""
        self.until(found)
        place = self.value(f"""(() => {{
            const one = {found};
            one.scrollIntoView({{block: "center"}});
            const {{x, y, width, height}} = one.getBoundingClientRect();
            return [x + width / 2, y + height / 2];
        }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Put a text into a field in place of what is in it, as from a keyboard."""
        self.value(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); one.focus(); one.select(); }})()"
        )
        if text:
            self.call("Input.insertText", text=text)
        else:
            self.press("Delete", 46)

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a field for one."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def screenshot(self, out: Path, whole: bool = True) -> None:
        """A PNG of the page, of all of it where it is ``whole``."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        out.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._orders)
        os.close(self._reports)

    def _until(self, so: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (found := so()):
            assert time.monotonic() < deadline, f"never came: {what}"
            time.sleep(0.02)
        return found

    def _message(self, deadline: float) -> dict[str, Any] | None:
        """The next message; None where there is none by then."""
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._reports], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                return None
            data = os.read(self._reports, 1 << 16)
            assert data, "the browser has ended"
            self._read += data
        first, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(first))
