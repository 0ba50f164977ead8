"""The data room measured: decoding, the loader beside it, reading, finding a place in the order, a first batch."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from laconvnet.kernels.bench import Row, Step, compare
from laconvnet.pipeline.bench.letterboxes import ONLY_CPU, VARIANTS, Variant, exact, per_picture
from laconvnet.pipeline.bench.made import WORDS, images, made_set
from laconvnet.pipeline.data.decode import Decoder
from laconvnet.pipeline.data.examples import Examples, Items
from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.data.loader import DataConfig, Loader, Request
from laconvnet.pipeline.data.plan import Plan
from laconvnet.pipeline.data.reader import Reader
from laconvnet.pipeline.data.streams import Streams
from laconvnet.pipeline.data.text import Vocabulary

WIDTH, HEIGHT, SIZE = 640, 480, 416
_CPU = torch.device("cpu")
_EPOCH, _SHARD, _FAR = 10**9, 100_000, 7 * 10**11
_READ, _TARS, _WINDOW, _STREAMS = 512, 16, 64, 4
_PATIENCE = 60.0
_STRETCH = 4  # batches that the loader is timed over: its thread begins anew each time


def rows(device: torch.device, batch: int, threads: int, rounds: int, samples: int = 10**6) -> Iterator[list[Row]]:
    """Yields the rows of `decoding`, `loading`, `reading`, `seeking` and `beginning`: five lists.

    A row is one of `kernels.bench.compare`, with ``threads`` (those that read and decode), ``pictures`` (decoded in
    the time it tells, 0 where none are) and ``bench``, the part of the room. ``samples`` are those of the set whose
    first batch is waited for.
    """
    encoded = images(batch, WIDTH, HEIGHT)
    parts = (
        ("decode", decoding(encoded, device, threads, rounds)),
        ("loader", loading(encoded, device, threads, rounds)),
        ("read", reading_here(encoded, threads, rounds)),
        ("seek", seeking(rounds)),
        ("first batch", beginning(encoded, samples, device, threads, rounds)),
    )
    for name, part in parts:
        yield [{**row, "bench": name, "threads": threads} for row in part]


def decoding(encoded: list[bytes], device: torch.device, threads: int, rounds: int) -> Iterator[Row]:
    """Ways to decode a batch of images and letterbox them, from memory; the baseline is the one that trains.

    Each row has ``mean_error`` and ``largest_error``, in levels of 255, against the letterbox of the same pixels
    resized in floating point by a triangle as wide as the pixels it draws together.
    """
    data = _arrays(encoded)
    letterbox = Letterbox.fit(np.full(len(data), WIDTH), np.full(len(data), HEIGHT), SIZE)
    decoder = Decoder(len(data), threads, device)
    made: dict[str, Any] = {"letterbox": lambda: decoder.decode(data, letterbox)}
    for name, settings in VARIANTS.items():
        if device.type == "cpu" or name not in ONLY_CPU:
            made[name] = Variant(SIZE, len(data), threads, device, **settings).of(data, letterbox)
    made["pillow, one thread"] = lambda: per_picture(data, letterbox)
    truth = exact(data[:2], letterbox)
    errors = {name: (make()[:2].cpu() - truth).abs() * 255 for name, make in made.items()}
    for row in _compared(made, "letterbox", device, rounds):
        found = errors[row["name"]]
        yield {**row, "pictures": len(data), "mean_error": float(found.mean()), "largest_error": float(found.max())}


def loading(encoded: list[bytes], device: torch.device, threads: int, rounds: int) -> Iterator[Row]:
    """The whole loader, from shards on disk to batches, beside the decoder alone fed with the same bytes."""
    data, size = _arrays(encoded), len(encoded)
    letterbox = Letterbox.fit(np.full(size, WIDTH), np.full(size, HEIGHT), SIZE)
    decoder = Decoder(size, threads, device)
    with tempfile.TemporaryDirectory() as place:
        examples = Examples.open(made_set(Path(place), encoded, size, WIDTH, HEIGHT), "expression", "train")
        with closing(_loader(examples, size, threads, device)) as loader:
            requests = [Request(examples.rows)] * _STRETCH
            made = {
                "decoder from memory": lambda: [decoder.decode(data, letterbox) for _ in requests][-1],
                "loader": lambda: list(loader.stream(requests))[-1].images,
            }
            for row in _compared(made, "decoder from memory", device, rounds):
                yield {**row, "pictures": size * _STRETCH}


def reading_here(encoded: list[bytes], threads: int, rounds: int) -> Iterator[Row]:
    """`reading` of a set of 512 of these images in 16 shards on this machine's disk."""
    with tempfile.TemporaryDirectory() as place:
        made_set(Path(place), encoded, _READ, WIDTH, HEIGHT, _TARS)
        yield from reading(place, len(encoded), threads, rounds)


def reading(place: str, batch: int, threads: int, rounds: int) -> Iterator[Row]:
    """The encoded images of an epoch of a set in a folder or at a URL: each by its place, and in streams of shards.

    Each is timed from nothing opened to the last image; the threads of the first are at work on one batch.
    """
    examples = Examples.open(Path(place), "expression", "train")
    orders = {"by place": (0, 0), "by place, in windows": (_WINDOW, 0), "streams": (_WINDOW, math.gcd(batch, _STREAMS))}
    made: dict[str, Any] = {}
    for name, (window, streams) in orders.items():
        made[name] = partial(_epoch, Items.of(examples, 0, window, streams), batch, threads)
    for row in _compared(made, "by place", _CPU, rounds):
        yield {**row, "pictures": len(examples.rows) // batch * batch}


def _epoch(items: Items, batch: int, threads: int) -> None:
    steps = range(len(items.first) // batch)
    if items.plan.streams:
        reader: Reader | Streams = Streams(items, batch, steps, 0, 1, masks=False, patience=_PATIENCE)
    else:
        reader = Reader(items.examples.manifest, threads)
    with closing(reader):
        for step in steps:
            reader.read(items.examples.samples(items.step(step, batch, 0, 1)))


def seeking(rounds: int) -> Iterator[Row]:
    """A batch's items far along the stream of a thousand million of them, whatever stands before."""
    starts = np.arange(0, _EPOCH, _SHARD)
    whole, local = Plan((_EPOCH,), (1.0,), 0), Plan((_EPOCH,), (1.0,), 0, 20 * _SHARD, starts)
    made = {
        "one position, whole epoch": lambda: whole.step(_FAR, 1, 0, 1),
        "one position, in windows": lambda: local.step(_FAR, 1, 0, 1),
        "batch of 256, whole epoch": lambda: whole.step(_FAR // 256, 256, 0, 1),
        "batch of 256, in windows": lambda: local.step(_FAR // 256, 256, 0, 1),
    }
    for row in _compared(made, "one position, whole epoch", _CPU, rounds):
        yield {**row, "pictures": 0}


def beginning(encoded: list[bytes], samples: int, device: torch.device, threads: int, rounds: int) -> Iterator[Row]:
    """From a set of so many samples on disk to the first batch: step by step, and all of it under "both"."""
    size = len(encoded)
    with tempfile.TemporaryDirectory() as place:
        folder = made_set(Path(place), encoded, samples, WIDTH, HEIGHT)

        def opened(_: Any) -> Examples:
            return Examples.open(folder, "expression", "train")

        def first(items: Items) -> torch.Tensor:
            with closing(_loader(items.examples, size, threads, device)) as loader:
                stream = loader.stream([Request(items.step(0, size, 0, 1))])
                return next(stream).images

        def laid_out(examples: Examples) -> Items:
            return Items.of(examples, 0)

        steps: dict[str, Step] = {"open": opened, "items": laid_out, "batch": first}
        for row in compare({"first batch": steps}, "first batch", _CPU, rounds):
            yield {**row, "pictures": size, "samples": samples}


def _compared(made: dict[str, Any], baseline: str, device: torch.device, rounds: int) -> list[Row]:
    """By the clock on the wall: DALI works on streams of its own, which PyTorch's events do not see."""

    def step(make: Any) -> Any:
        def run(_: Any) -> Any:
            result = make()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return result

        return {"all": run}

    return compare({name: step(make) for name, make in made.items()}, baseline, _CPU, rounds)


def _arrays(encoded: list[bytes]) -> list[NDArray[np.uint8]]:
    return [np.frombuffer(one, np.uint8) for one in encoded]


def _loader(examples: Examples, batch: int, threads: int, device: torch.device) -> Loader:
    config = DataConfig("unused", size=SIZE, batch=batch, threads=threads)
    return Loader(examples, Vocabulary(WORDS), config, batch, device)
