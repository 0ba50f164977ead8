"""Draws the page of a run in use: `PYTHONPATH=. python docs/img/page.py RUN EXAMPLE TEXT WORD OUT.png`, with chromium.

The text is asked about the example image of this number, from 0 to 9, and the word is chosen, as stage 1 weighs it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.pipeline.demo.browser import Browser

WIDTH, HEIGHT = 1060, 880


def use(browser: Browser, example: str, text: str, word: str) -> None:
    browser.until("document.querySelector('.said')?.innerText")
    browser.click(f"#examples li:nth-child({int(example) + 1}) button")
    browser.type("#text", text)
    browser.until(f"asked.text === {text!r} && !document.querySelector('[aria-busy]')")
    browser.click("#words button", word)
    browser.until("document.querySelector('.weights').src")
    browser.click("#stages label", "stage 1")
    browser.value("document.activeElement.blur()")


def draw(run: str, example: str, text: str, word: str, out: Path) -> None:
    command = [sys.executable, "-m", "laconvnet", "demo", run, "--port", "0"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout is not None
        browser = Browser(Path(folder) / "profile")
        browser.open(server.stdout.readline().strip(), WIDTH, HEIGHT)
        use(browser, example, text, word)
        browser.screenshot(out)
        browser.close()
        server.send_signal(signal.SIGINT)
    Image.open(out).convert("RGB").quantize(255, Image.Quantize.FASTOCTREE).save(out, optimize=True)


if __name__ == "__main__":
    run, example, text, word, out = sys.argv[1:]
    draw(run, example, text, word, Path(out))
