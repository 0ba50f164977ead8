"""Batches of a task, prepared ahead of the step that needs them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.decode import PADDING, Decoder
from pipeline.data.examples import Examples
from pipeline.data.geometry import Letterbox
from pipeline.data.reader import Reader
from pipeline.data.text import Vocabulary
from pipeline.errors import ConfigError

_AHEAD = 2
Request = tuple[NDArray[np.int64], NDArray[np.int64] | None]


@dataclass(frozen=True)
class DataConfig:
    """What is read and how it is shown to the network.

    Args:
        folder: A built shard set (or a merged one): the folder that holds manifest.parquet.
        split: The split to train on.
        size: Side of the square that pictures are letterboxed to, in pixels; divisible by 32.
        words: Words an expression or question is cut or padded to.
        batch: Global batch: examples a step over all processes; divisible by their number.
        threads: Threads that read and decode, a process.
        vectors: GloVe text file (plain or .gz) for frozen word vectors; without it they are learned.
        blank: Replace every picture by the padding grey: what words alone can tell.
    """

    folder: str
    split: str = "train"
    size: int = 416
    words: int = 15
    batch: int = 32
    threads: int = 2
    vectors: str | None = None
    blank: bool = False

    def __post_init__(self) -> None:
        for name in ("words", "batch", "threads"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"data.{name}: {value}: expected at least 1")
        if self.size < 1 or self.size % 32:
            raise ConfigError(f"data.size: {self.size}: expected a multiple of 32")


@dataclass(frozen=True)
class Batch:
    """One rank's part of a step. ``boxes`` are (B, 4) xyxy in pixels of the square, NaN for questions."""

    rows: NDArray[np.int64]
    images: torch.Tensor
    tokens: torch.Tensor
    boxes: torch.Tensor
    answers: torch.Tensor
    letterbox: Letterbox


class Loader:
    """Turns example rows into batches: bytes, decoded squares, words, boxes and answers, all of one geometry."""

    def __init__(
        self,
        examples: Examples,
        vocabulary: Vocabulary,
        config: DataConfig,
        largest: int,
        device: torch.device,
    ) -> None:
        self._examples = examples
        self._vocabulary = vocabulary
        self._config = config
        self._device = device
        self._reader = Reader(examples.manifest, config.threads)
        self._decoder = Decoder(config.size, largest, config.threads, device)

    def batch(self, rows: NDArray[np.int64], spoken: NDArray[np.int64] | None = None) -> Batch:
        """The batch of these example rows; ``spoken`` gives rows whose words are used in place of their own."""
        examples, config = self._examples, self._config
        samples = examples.samples(rows)
        letterbox = Letterbox.fit(*examples.sides(samples), config.size)
        images = self._decoder.decode(self._reader.read(samples), letterbox)
        if config.blank:
            images.fill_(PADDING / 255)
        tokens = self._vocabulary.encode(examples.texts(rows if spoken is None else spoken), config.words)
        answers = [self._vocabulary.answer_number(answer) for answer in examples.answers(rows)]
        return Batch(
            rows,
            images,
            torch.from_numpy(tokens).to(self._device, non_blocking=True),
            torch.from_numpy(letterbox.boxes(examples.boxes(rows))).to(self._device, non_blocking=True),
            torch.tensor(answers, dtype=torch.int64).to(self._device, non_blocking=True),
            letterbox,
        )

    def stream(self, requests: Iterable[Request]) -> Generator[Batch]:
        """The batches of these requests (see `batch`) in order, made ahead by one thread."""
        return _ahead(lambda request: self.batch(*request), requests)

    def close(self) -> None:
        self._reader.close()


def _ahead(make: Callable[[Request], Batch], requests: Iterable[Request]) -> Generator[Batch]:
    """Run ``make`` over the requests in a thread, a few results ahead; its exception is raised here."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def put(value: Batch | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for request in requests:
                if not put(make(request)):
                    return
            put(None)
        except BaseException as error:  # handed to the thread that consumes
            put(error)

    thread = threading.Thread(target=work, name="loader", daemon=True)
    thread.start()
    try:
        while (value := ready.get()) is not None:
            if isinstance(value, BaseException):
                raise value
            yield value
    finally:
        stop.set()
        thread.join()
