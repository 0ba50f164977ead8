"""Networks with random weights as exported files, and the page on some of them in a process of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import laconvnet
from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.model import build_model

TINY = Path(__file__).parents[1] / "training" / "tiny.yaml"
WORDS = "the a red green blue round small large left right circle square of on what is"
ANSWERS = ("red", "green", "yes")
MODELS = {
    "rec": [],
    "res": ["--model.task=res"],
    "vqa": ["--model.task=vqa"],
    "film": ["--model.task=vqa", "--model.block=film"],
}
# SIGINT as from a terminal: what starts the tests in the background has it ignored, and processes inherit that.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from laconvnet.launch.cli import entry
entry()
"""


@dataclass
class Server:
    """`laconvnet demo` at an address."""

    address: str

    @property
    def host(self) -> str:
        return self.address.removeprefix("http://").rstrip("/")

    def reached(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self.get("/about")
                return
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, f"{self.address}: nobody answers"
                time.sleep(0.05)

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (of JSON what it holds) and headers of an answer."""
        connection = HTTPConnection(self.host, timeout=60)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        given = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(data) if given.get("content-type") == "application/json" else data, given

    def get(self, path: str) -> Any:
        status, found, _ = self.send("GET", path)
        assert status == 200, found
        return found

    def ask(self, path: str = "/answer", **question: Any) -> Any:
        status, found, _ = self.send("POST", path, json.dumps(question).encode())
        assert status == 200, found
        return found

    def refusal(self, status: int, path: str, body: bytes | None = None, **headers: str) -> str:
        """The one line that this request is refused with."""
        found = self.send("GET" if body is None else "POST", path, body, **headers)
        assert found[0] == status, found
        assert list(found[1]) == ["error"]
        assert "\n" not in found[1]["error"]
        return str(found[1]["error"])


@pytest.fixture(scope="session")
def models(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    vocabulary = Vocabulary(tuple(WORDS.split()), ANSWERS)
    for name, keys in MODELS.items():
        config = configuration.load(TINY, [f"--data.folder={sets['refcoco']}", *keys])
        torch.manual_seed(0)
        weights = build_model(config.model, len(vocabulary), len(ANSWERS)).state_dict()
        facts = {"step": "7", "config": configuration.dump(config), "vocabulary": vocabulary.to_json()}
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / f"{name}.safetensors", facts)
    return {name: folder / f"{name}.safetensors" for name in MODELS}


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    @contextmanager
    def begun(*arguments: object) -> Iterator[Server]:
        """A server at a free port, ended as by Ctrl-C: with exit code 0 and nothing to say."""
        command = [sys.executable, "-c", PROGRAM, "demo", *map(str, arguments), "--port", "0"]
        process = subprocess.Popen(command, cwd=laconvnet.ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert re.fullmatch(r"http://[^/ ]+:\d+/", address), address
            yield Server(address)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert process.stdout.read() == ""
        finally:
            process.kill()
            process.communicate()

    return begun
