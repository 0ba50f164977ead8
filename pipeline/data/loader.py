"""Batches of a task, prepared ahead of the step that needs them."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from laconvnet.pipeline.data.answers import normalised, targets
from laconvnet.pipeline.data.cache import Cache
from laconvnet.pipeline.data.decode import HW_DECODER_LOAD, Decoder, can_decode
from laconvnet.pipeline.data.examples import Augmentation, Examples, Flags, Items, Rows
from laconvnet.pipeline.data.flip import flip_boxes, flip_images, flip_words
from laconvnet.pipeline.data.geometry import PADDING, Floats, Letterbox
from laconvnet.pipeline.data.prefetch import Stalled, prefetch
from laconvnet.pipeline.data.reader import Reader
from laconvnet.pipeline.data.streams import Streams
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError

_MOST_JITTER = 0.4  # a referent as large as the square is seen by 1 / 1.4 of each side, half of its area
_DAY = 86400


@dataclass(frozen=True)
class DataConfig:
    """The data of training, and how they are shown to the network.

    Args:
        folder: A built shard set (or a merged one): the folder that holds manifest.parquet, or its URL (s3://, gs://,
            https://, any that fsspec knows). Of a set at a URL the tables are fetched once a machine, ranges of shards
            as they are wanted.
        split: The split to train on.
        size: Side of the square that images are letterboxed to, in pixels; divisible by 32.
        sizes: Multi-scale training: each step's images have one of these sides, drawn anew for each (SimREC: 224 to 608
            by 32); without them all have ``size``, as they have wherever a model is scored.
        words: Words an expression or question is cut or padded to.
        answer_minimum: Where several people answered each question, an answer is learned if it is the chosen one of so
            many training questions (VQAv2: 9); where one answer is given, all are.
        batch: Global batch: examples a step over all processes; divisible by their number.
        threads: Threads that read and decode, a process.
        hw_decoder_load: Share of the JPEGs that a GPU with a decoder of its own (A100, H100, ...) decodes there, from 0
            to 1; its cores decode the others. Without a GPU it means nothing.
        vectors: GloVe text file (plain or .gz) for frozen word vectors: words of the set's other splits that it knows
            are known too. null: they are learned.
        blank: Replace every image by the padding grey: what words alone can tell.
        flip: Share of the training examples that are mirrored, left and right exchanged in the words too.
        jitter: Training images are scaled by factors from 1 - jitter to 1 + jitter and stand at any place that shows
            the referent; questions are about all of an image, which is then never cut.
        colour: Brightness, contrast and saturation of training images are scaled by factors from 1 - colour to
            1 + colour.
        window: Order the examples locally, for storage that seeks slowly: parts of shards are permuted, then examples
            within windows of so many. A window should hold those of several shards. 0: order them all.
        streams: Read each shard from its begin to its end, for stores that give no ranges: the shards of an epoch are
            dealt to so many streams, which the processes share and each batch has equal parts of. Each stream holds up
            to two windows of encoded images. 0: read each image by its place.
        cache: Folder of this machine's disk that keeps the images of a set at a URL, for all processes and runs of this
            user: what is in it is not fetched again.
        cache_gb: Gigabytes (1e9 bytes) that the cache takes at most; what was used longest ago goes.
        patience: Seconds that training waits for a batch before it gives up, with a message of what is being read;
            less than collectives wait (600 on GPUs).
    """

    folder: str
    split: str = "train"
    size: int = 416
    sizes: tuple[int, ...] = ()
    words: int = 15
    answer_minimum: int = 9
    batch: int = 32
    threads: int = 2
    hw_decoder_load: float = HW_DECODER_LOAD
    vectors: str | None = None
    blank: bool = False
    flip: float = 0.0
    jitter: float = 0.0
    colour: float = 0.0
    window: int = 0
    streams: int = 0
    cache: str | None = None
    cache_gb: float = 100.0
    patience: float = 300.0

    def __post_init__(self) -> None:
        for name in ("words", "answer_minimum", "batch", "threads"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"data.{name}: {value}: expected at least 1")
        for key, side in (("size", self.size), *(("sizes", side) for side in self.sizes)):
            if side < 1 or side % 32:
                raise ConfigError(f"data.{key}: {side}: expected a multiple of 32")
        if not 0 <= self.hw_decoder_load <= 1:
            raise ConfigError(f"data.hw_decoder_load: {self.hw_decoder_load}: expected a share from 0 to 1")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"data.flip: {self.flip}: expected a share from 0 to 1")
        if not 0 <= self.jitter <= _MOST_JITTER:
            raise ConfigError(
                f"data.jitter: {self.jitter}: expected a share from 0 to {_MOST_JITTER}; "
                "with more, less than half of a referent may be seen"
            )
        if not 0 <= self.colour <= 1:
            raise ConfigError(f"data.colour: {self.colour}: expected a share from 0 to 1")
        if self.window < 0:
            raise ConfigError(f"data.window: {self.window}: expected a number of examples, or 0")
        if self.streams < 0:
            raise ConfigError(f"data.streams: {self.streams}: expected a number of streams, or 0")
        if self.streams and not self.window:
            raise ConfigError("data.window: 0: with data.streams expected the examples that each stream is shuffled by")
        if self.streams and self.batch % self.streams:
            raise ConfigError(f"data.streams: {self.streams}: expected a divisor of data.batch, {self.batch}")
        if self.streams and self.cache:
            raise ConfigError(
                f"data.cache: {self.cache}: with data.streams whole shards are read; leave out one of them"
            )
        if not 0 < self.cache_gb < math.inf:
            raise ConfigError(f"data.cache_gb: {self.cache_gb}: expected gigabytes, more than 0")
        if not 0 < self.patience <= _DAY:
            raise ConfigError(f"data.patience: {self.patience}: expected seconds, more than 0 and at most {_DAY}")


@dataclass(frozen=True)
class Request:
    """What a batch is made of: examples, and how they are shown.

    ``rows`` (B,) are example rows. ``spoken`` (B,) gives rows whose words are used in place of their own. ``flipped``
    (B,) tells which are mirrored. ``augmentation`` moves and
    colours the images. ``size`` is the side of their square; None takes the configuration's.
    """

    rows: Rows
    spoken: Rows | None = None
    flipped: Flags | None = None
    augmentation: Augmentation | None = None
    size: int | None = None


@dataclass(frozen=True)
class Batch:
    """One rank's part of a step.

    ``boxes`` are (B, 4) xyxy in pixels of the square, NaN for questions and where nothing is spoken of. ``answers`` are
    what `pipeline.data.answers.targets` makes of them, (B,) or (B, answers). ``masks`` are (B, S, S) uint8, 0 or 1, for
    the tasks that want them. ``letterbox`` is that of the images as they are stored: with all that moved them, but
    the mirror.
    """

    rows: NDArray[np.int64]
    images: torch.Tensor
    tokens: torch.Tensor
    boxes: torch.Tensor
    answers: torch.Tensor
    letterbox: Letterbox
    masks: torch.Tensor | None = None


class Loader:
    """Turns example rows into batches: bytes, decoded squares, words, boxes, masks and answers, all of one geometry."""

    def __init__(
        self,
        examples: Examples,
        vocabulary: Vocabulary,
        config: DataConfig,
        largest: int,
        device: torch.device,
        masks: bool = False,
        reader: Reader | Streams | None = None,
    ) -> None:
        """``largest`` is the number of examples of the largest batch; ``masks``: whether batches have them.

        ``reader`` gives the images, by default each by its place; it is closed with the loader.
        """
        self._masks = masks
        self._examples = examples
        self._vocabulary = vocabulary
        self._config = config
        self._device = device
        self._reader = reader or Reader(examples.manifest, config.threads, cache_of(config))
        self._largest = largest
        self._decoders: dict[bool, Decoder] = {}
        self._decoding: Rows | None = None
        self._stalled = False

    def batch(self, request: Request) -> Batch:
        """The batch of a request. Raises ConfigError for an image that cannot be decoded.

        Of what is mirrored, image, boxes, masks, words and answer are; a question whose mirrored answer the
        vocabulary lacks never is. Of what moves, see `Letterbox.moved` for how much of a referent stays to be seen. A
        question's image is only made smaller, for what lies at its border may be what is asked for; where an
        expression speaks of nothing, the image moves as freely as where it does, or its place would give that away.
        """
        rows, augmentation = request.rows, request.augmentation
        examples, config = self._examples, self._config
        texts, answers, mirrored = self._texts_and_targets(
            rows, rows if request.spoken is None else request.spoken, request.flipped
        )
        samples = examples.samples(rows)
        letterbox = Letterbox.fit(*examples.sides(samples), request.size or config.size)
        framed = letterbox.boxes(examples.boxes(rows))
        if augmentation:
            scale = augmentation.scale if examples.kind == "expression" else 1 - np.abs(1 - augmentation.scale)
            letterbox = letterbox.moved(scale, augmentation.at, framed)
            framed = np.clip(letterbox.boxes(examples.boxes(rows)), 0, letterbox.size)
        images = self._decoded(samples, letterbox, augmentation.colour if augmentation and config.colour else None)
        if config.blank:
            images.fill_(PADDING / 255)
        boxes = self._on_device(framed)
        masks = None
        if self._masks:
            found = self._reader.masks(samples, examples.regions(rows))
            masks = self._on_device(np.stack([letterbox.mask(index, mask) for index, mask in enumerate(found)]))
        if mirrored.any():
            which = self._on_device(mirrored)
            images, boxes = flip_images(images, which), flip_boxes(boxes, letterbox.size, which)
            masks = None if masks is None else flip_images(masks, which)
        tokens = self._on_device(self._vocabulary.encode(texts, config.words))
        return Batch(rows, images, tokens, boxes, self._on_device(answers), letterbox, masks)

    def _texts_and_targets(
        self, rows: Rows, spoken: Rows, flipped: Flags | None
    ) -> tuple[list[str], NDArray[Any], Flags]:
        """Texts, the targets made of the answers, and which examples are mirrored after all."""
        texts, answers = self._examples.texts(spoken), self._answers(rows)
        number = self._vocabulary.answer_number
        mirrored = np.zeros(len(rows), bool) if flipped is None else flipped.copy()
        for row in np.flatnonzero(mirrored):
            turned = [flip_words(answer) for answer in answers[row]]
            if any(number(there) < 0 <= number(here) for here, there in zip(answers[row], turned, strict=True)):
                mirrored[row] = False
            else:
                texts[row], answers[row] = flip_words(texts[row]), turned
        return texts, targets(answers, self._vocabulary), mirrored

    def _answers(self, rows: Rows) -> list[list[str]]:
        """The answers to each question: the one or none, those of all people where the vocabulary is of such."""
        chosen = [[] if answer is None else [answer] for answer in self._examples.answers(rows)]
        if not self._vocabulary.soft:
            return chosen
        several = self._examples.human_answers(rows)
        return [[normalised(answer) for answer in all or one] for all, one in zip(several, chosen, strict=True)]

    def _decoded(self, samples: Rows, letterbox: Letterbox, colour: Floats | None) -> torch.Tensor:
        coloured = colour is not None
        if coloured not in self._decoders:
            config = self._config
            self._decoders[coloured] = Decoder(
                self._largest, config.threads, self._device, coloured, config.hw_decoder_load
            )
        data = self._reader.read(samples)
        self._decoding = samples
        try:
            return self._decoders[coloured].decode(data, letterbox, colour)
        except RuntimeError as error:
            del self._decoders[coloured]  # DALI takes no more images after one that it cannot decode
            for sample, image in zip(samples.tolist(), data, strict=True):
                if not can_decode(image):
                    raise ConfigError(
                        f"{self._reader.location(sample)}: the image cannot be decoded; run `laconvnet shards verify "
                        f"{self._examples.manifest.folder} --full` and build the set again"
                    ) from error
            raise
        finally:
            self._decoding = None

    def _doing(self) -> str:
        """What the thread that makes batches is doing, for the message about a stall."""
        if (samples := self._decoding) is not None:
            return f"decoding {len(samples)} images, the first of them {self._reader.location(int(samples[0]))}"
        locations = self._reader.under_way
        return f"reading {' and '.join(locations)}" if locations else "reading and decoding nothing"

    def _on_device(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device, non_blocking=True)

    def stream(self, requests: Iterable[Request]) -> Generator[Batch]:
        """The batches of these requests (see `batch`) in order, made ahead by one thread.

        Raises what goes wrong there; and TrainingError where no batch comes within ``data.patience``.
        """
        try:
            yield from prefetch(self.batch, requests, self._config.patience, self._doing)
        except Stalled:
            self._stalled = True
            raise

    def close(self) -> None:
        self._reader.close(0 if self._stalled else self._config.patience)


def cache_of(config: DataConfig) -> Cache | None:
    """The cache that a configuration names. Raises ConfigError and OSError as `Cache`."""
    return Cache(Path(config.cache), int(config.cache_gb * 1e9)) if config.cache else None


def requests_of(items: Items, config: DataConfig, step: int, rank: int, world: int, parts: int) -> Iterator[Request]:
    """The requests of one rank in one step of training: ``parts`` of them, one a micro-batch."""
    position = step, config.batch, rank, world
    rows, flipped = items.step(*position), items.flips(*position, config.flip)
    augmentation = items.augmentation(*position, config.jitter, config.colour)
    size = items.side(step, config.sizes) if config.sizes else None
    share = len(rows) // parts
    for first in range(0, len(rows), share):
        part = slice(first, first + share)
        yield Request(rows[part], None, flipped[part], augmentation[part] if augmentation else None, size)
