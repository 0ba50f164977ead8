"""The watch over the loader: what does not come is named, with the place in the shard and in the code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from laconvnet.pipeline.data.decode import Decoder
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.loader import DataConfig, Loader, Request
from laconvnet.pipeline.data.prefetch import Stalled, prefetch
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.data.workers import Workers
from laconvnet.pipeline.errors import ConfigError, TrainingError

CONFIG = DataConfig("unused", size=64, words=6, batch=8, threads=2, patience=0.5)


@pytest.fixture(scope="module")
def examples(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """A copy: a reader that was given up leaves its files open."""
    folder = tmp_path_factory.mktemp("stalled") / "refcoco"
    shutil.copytree(sets["refcoco"], folder)
    return Examples.open(folder, "expression", "train")


def loader_of(examples: Examples, config: DataConfig) -> Loader:
    return Loader(examples, Vocabulary.build(examples.texts(examples.rows)), config, 8, torch.device("cpu"))


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    opened = threading.Event()
    yield opened
    opened.set()
    for thread in threading.enumerate():
        if thread.name in ("loader", "reader"):
            thread.join(10)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_read_that_does_not_end_is_named(
    examples: Examples, gate: threading.Event, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    rows = examples.rows[::5][:12]
    late = int(examples.samples(rows)[10])
    entry = examples.manifest.samples.slice(late, 1).to_pylist()[0]
    pread = os.pread

    def held_up(file: int, length: int, offset: int) -> bytes:
        shard = os.readlink(f"/proc/self/fd/{file}")
        if shard == str(examples.manifest.shard_paths[entry["shard"]]) and offset == entry["image_offset"]:
            gate.wait(20)
        return pread(file, length, offset)

    monkeypatch.setattr(os, "pread", held_up)
    waits: list[float | None] = []
    join = threading.Thread.join

    def noted(thread: threading.Thread, timeout: float | None = None) -> None:
        waits.append(timeout)
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", noted)
    with closing(loader_of(examples, replace(CONFIG, threads=threads))) as loader:
        stream = loader.stream([Request(rows[:4]), Request(rows[4:8]), Request(rows[8:12])])
        assert next(stream).rows.tolist() == rows[:4].tolist()
        assert next(stream).rows.tolist() == rows[4:8].tolist()
        with pytest.raises(TrainingError) as caught:
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)
    assert waits == [0] * (1 if threads == 1 else 1 + threads), "nothing waits for the read"
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("no batch for 0.5 s, reading ")
    shard = examples.manifest.shard_paths[entry["shard"]]
    assert f"{shard}: sample {entry['key']!r} at offset {entry['image_offset']}" in message
    assert "data.patience" in message
    assert "loader.py:" in message
    assert " batch < " in message, "the calls, the innermost first"


def test_an_image_that_is_not_done_is_named(
    examples: Examples, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held_up(*_: Any) -> torch.Tensor:
        gate.wait(20)
        return torch.zeros(1, 3, 64, 64)

    monkeypatch.setattr(Decoder, "decode", held_up)
    with closing(loader_of(examples, CONFIG)) as loader, pytest.raises(Stalled) as caught:
        next(loader.stream([Request(examples.rows[3:5])]))
    entry = examples.manifest.samples.slice(int(examples.samples(examples.rows[3:4])[0]), 1).to_pylist()[0]
    place = f"{examples.manifest.shard_paths[entry['shard']]}: sample {entry['key']!r} at offset"
    assert f"decoding 2 images, the first of them {place}" in str(caught.value)
    assert "held_up" in str(caught.value)


def test_slow_is_not_stalled_and_a_slow_consumer_is_none() -> None:
    def make(number: int) -> int:
        time.sleep(0.15)
        return number

    taken = []
    for number in prefetch(make, range(6), 1.0, lambda: "working"):
        taken.append(number)
        time.sleep(0.4 if number == 1 else 0)
    assert taken == list(range(6))


def test_a_stalled_source_of_requests_is_reported_too(gate: threading.Event) -> None:
    def requests() -> Iterator[int]:
        yield 1
        gate.wait(20)

    stream = prefetch(lambda number: number, requests(), 0.3, lambda: "reading and decoding nothing")
    assert next(stream) == 1
    with pytest.raises(Stalled, match=r"no batch for 0\.3 s, reading and decoding .*; .* stands at .* requests <"):
        next(stream)


def test_a_process_ends_though_its_reads_never_do(sets: dict[str, Path]) -> None:
    program = """
import os, sys, time
from contextlib import closing
from pathlib import Path
import torch
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.loader import DataConfig, Loader, Request
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import TrainingError
examples = Examples.open(Path(sys.argv[1]), "expression", "train")
os.pread = lambda *_: time.sleep(1000)
config = DataConfig("unused", size=64, threads=3, patience=2)
try:
    with closing(Loader(examples, Vocabulary(("a",)), config, 8, torch.device("cpu"))) as loader:
        next(loader.stream([Request(examples.rows[:8])]))
except TrainingError as error:
    sys.exit("told: " + str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(sets["refcoco"])], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("told: no batch for 2 s, reading ")
    assert done.stderr.count("sample '") == 3


def test_an_image_that_dali_refuses_is_named(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksum is right, so nobody but the decoder could see it."""
    config = replace(CONFIG, patience=60)
    rows = examples.rows[:8]
    bad = int(examples.samples(rows)[5])
    with closing(loader_of(examples, config)) as loader:
        read = loader._reader.read

        def spoiled(samples: Any) -> list[Any]:
            return [
                np.frombuffer(b"no image at all", np.uint8) if sample == bad else data
                for sample, data in zip(samples.tolist(), read(samples), strict=True)
            ]

        monkeypatch.setattr(loader._reader, "read", spoiled)
        requests: list[Request] = [Request(rows)]
        with pytest.raises(ConfigError) as caught:
            next(loader.stream(requests))
        monkeypatch.undo()
        assert loader.batch(Request(rows)).images.std() > 0, "the loader goes on with others"
    key = examples.manifest.samples["key"][bad].as_py()
    assert f"sample {key!r} at offset" in str(caught.value)
    assert "the image cannot be decoded; run `laconvnet shards verify" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_no_image_is_to_blame_for_stays_what_it_was(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(loader_of(examples, CONFIG)) as loader:
        loader.batch(Request(examples.rows[:2]))

        def failing(*_: Any, **__: Any) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(loader._decoders[False], "decode", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            next(loader.stream([Request(examples.rows[:2])]))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 86401.0])
def test_a_patience_that_is_none_is_named(value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.patience: {value}: expected seconds, .*0 .*86400"):
        replace(CONFIG, patience=value)


# --- the threads that read --------------------------------------------------------------------------------------------


def test_workers_keep_the_order_and_raise_the_first_error() -> None:
    workers = Workers(3, "some")

    def make(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        if number in (5, 9):
            raise KeyError(number)
        return number * number

    assert workers.map(make, range(5)) == [0, 1, 4, 9, 16]
    with pytest.raises(KeyError, match="5"):
        workers.map(make, range(12))
    assert workers.map(make, [10, 2]) == [100, 4], "the others go on"
    assert workers.map(make, []) == []
    assert workers.close(10)
    assert not [thread for thread in threading.enumerate() if thread.name == "some"]


def test_closing_waits_so_long_and_no_longer(gate: threading.Event) -> None:
    workers, started = Workers(2, "reader"), threading.Event()

    def held_up(_: int) -> None:
        started.set()
        gate.wait(20)

    caller = threading.Thread(target=lambda: workers.map(held_up, [1]), daemon=True)
    caller.start()
    assert started.wait(20)
    assert not workers.close(0.2)
    gate.set()
    caller.join(10)
    assert workers.close(10)
