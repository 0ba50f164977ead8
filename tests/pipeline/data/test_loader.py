"""Batches made ahead: what was asked for, in that order; errors and ends that leave nothing behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.loader import DataConfig, Loader, Request
from laconvnet.pipeline.data.text import UNKNOWN, Vocabulary
from laconvnet.pipeline.errors import ConfigError

CONFIG = DataConfig("unused", size=64, words=6, batch=8, threads=2)
CPU = torch.device("cpu")


def vocabulary_of(examples: Examples) -> Vocabulary:
    known = [answer for answer in examples.answers(examples.rows) if answer is not None]
    return Vocabulary.build(examples.texts(examples.rows), known)


@pytest.fixture(scope="module")
def examples(sets: dict[str, Path]) -> Examples:
    return Examples.open(sets["refcoco"], "expression", "train")


@pytest.fixture
def loader(examples: Examples) -> Iterator[Loader]:
    made = Loader(examples, vocabulary_of(examples), CONFIG, 8, CPU)
    yield made
    made.close()


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "loader"]


def requests_of(rows: NDArray[np.int64], size: int) -> list[Request]:
    return [Request(rows[first : first + size]) for first in range(0, len(rows), size)]


def test_a_batch_is_what_its_rows_say(examples: Examples, loader: Loader) -> None:
    rows = np.random.default_rng(0).choice(examples.rows, 8, replace=False)
    batch = loader.batch(Request(rows))
    assert batch.rows.tolist() == rows.tolist()
    assert batch.images.shape == (8, 3, 64, 64)
    assert batch.images.dtype == torch.float32
    expected = vocabulary_of(examples).encode(examples.texts(rows), 6)
    assert batch.tokens.tolist() == expected.tolist()
    boxes = examples.boxes(rows)  # the images are of 64 pixels already
    np.testing.assert_allclose(batch.boxes.numpy(), np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
    assert batch.answers.tolist() == [-1] * 8
    # The box frames a shape: within it there are pixels unlike the corner of the image.
    for image, (x1, y1, x2, y2) in zip(batch.images.numpy(), batch.boxes.numpy().astype(int), strict=True):
        inside = image[:, y1:y2, x1:x2].reshape(3, -1)
        assert np.abs(inside - image[:, :1, 0]).max() > 0.2


def test_images_of_another_size_take_their_boxes_with_them(examples: Examples) -> None:
    larger = Loader(examples, vocabulary_of(examples), replace(CONFIG, size=96), 8, CPU)
    rows = examples.rows[:8]
    x, y, w, h = examples.boxes(rows).T
    np.testing.assert_allclose(
        larger.batch(Request(rows)).boxes.numpy(), 1.5 * np.stack([x, y, x + w, y + h], 1), rtol=1e-5
    )
    larger.close()


def test_questions_carry_answers_and_no_boxes(sets: dict[str, Path]) -> None:
    training = Examples.open(sets["clevr"], "question", "train")
    vocabulary = vocabulary_of(training)
    asker = Loader(training, vocabulary, CONFIG, 8, CPU)
    batch = asker.batch(Request(training.rows[:8]))
    assert [vocabulary.answers[number] for number in batch.answers] == training.answers(training.rows[:8])
    assert torch.isnan(batch.boxes).all()
    asker.close()
    few = Vocabulary(vocabulary.words[:3], vocabulary.answers[:1])
    stranger = Loader(training, few, CONFIG, 8, CPU)
    batch = stranger.batch(Request(training.rows[:8]))
    assert set(batch.answers.tolist()) <= {0, -1}
    assert -1 in batch.answers
    assert UNKNOWN in batch.tokens
    stranger.close()


def test_the_stream_keeps_ids_and_order_and_equals_single_batches(examples: Examples, loader: Loader) -> None:
    rows = np.random.default_rng(1).permutation(examples.rows)[:45]
    requests = requests_of(rows, 8)
    streamed = list(loader.stream(iter(requests)))
    assert [batch.rows.tolist() for batch in streamed] == [request.rows.tolist() for request in requests]
    assert [len(batch.rows) for batch in streamed] == [8] * 5 + [5]
    for batch, request in zip(streamed, requests, strict=True):
        alone = loader.batch(request)
        assert torch.equal(batch.images, alone.images)
        assert torch.equal(batch.tokens, alone.tokens)
        assert torch.equal(batch.boxes, alone.boxes)
    assert not loader_threads()


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_change_nothing(examples: Examples, loader: Loader, threads: int) -> None:
    other = Loader(examples, vocabulary_of(examples), replace(CONFIG, threads=threads), 8, CPU)
    rows = examples.rows[10:18]
    one, two = loader.batch(Request(rows)), other.batch(Request(rows))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.tokens, two.tokens)
    other.close()


def test_spoken_swaps_the_words_and_nothing_else(examples: Examples, loader: Loader) -> None:
    rows, spoken = examples.rows[:6], examples.rows[20:26]
    own, swapped = loader.batch(Request(rows)), next(iter(loader.stream([Request(rows, spoken)])))
    assert swapped.rows.tolist() == rows.tolist()
    assert torch.equal(swapped.tokens, loader.batch(Request(spoken)).tokens)
    assert not torch.equal(swapped.tokens, own.tokens)
    assert torch.equal(swapped.boxes, own.boxes)
    assert torch.equal(swapped.images, own.images)


def test_blank_images_are_the_padding_grey(examples: Examples, loader: Loader) -> None:
    blind = Loader(examples, vocabulary_of(examples), replace(CONFIG, blank=True), 8, CPU)
    rows = examples.rows[:4]
    blank, seen = blind.batch(Request(rows)), loader.batch(Request(rows))
    assert blank.images.shape == seen.images.shape
    np.testing.assert_allclose(blank.images.numpy(), 127 / 255, rtol=1e-6)
    assert seen.images.std() > 0.05
    assert torch.equal(blank.tokens, seen.tokens)
    assert torch.equal(blank.boxes, seen.boxes)
    blind.close()


def test_an_error_in_the_thread_reaches_the_caller_in_its_turn(examples: Examples, loader: Loader) -> None:
    wrong = np.array([len(examples.manifest.examples)], np.int64)
    requests = [*requests_of(examples.rows[:16], 8), Request(wrong), Request(examples.rows[:8])]
    stream = loader.stream(requests)
    assert next(stream).rows.tolist() == examples.rows[:8].tolist()
    assert next(stream).rows.tolist() == examples.rows[8:16].tolist()
    with pytest.raises(IndexError, match="out of bounds"):
        next(stream)
    assert not loader_threads()
    with pytest.raises(StopIteration):
        next(stream)
    assert loader.batch(Request(examples.rows[:8])).rows.tolist() == examples.rows[:8].tolist()


def test_an_error_of_the_requests_reaches_the_caller_too(examples: Examples, loader: Loader) -> None:
    def requests() -> Iterator[Request]:
        yield Request(examples.rows[:8])
        raise ConfigError("the requests end here")

    stream = loader.stream(requests())
    next(stream)
    with pytest.raises(ConfigError, match="the requests end here"):
        next(stream)
    assert not loader_threads()


def test_an_early_end_leaves_no_thread_and_makes_no_more(examples: Examples, loader: Loader) -> None:
    requested = 0

    def requests() -> Iterator[Request]:
        nonlocal requested
        while True:
            requested += 1
            yield Request(examples.rows[:2])

    stream = loader.stream(requests())
    for _ in range(3):
        next(stream)
    assert loader_threads() == ["loader"]
    while requested < 6:
        time.sleep(0.01)
    time.sleep(0.3)
    assert requested == 6, "three taken, two ready, one that waits for a place"
    stream.close()
    assert not loader_threads()
    assert requested == 6


def test_a_stream_that_nobody_reads_starts_nothing(examples: Examples, loader: Loader) -> None:
    loader.stream(requests_of(examples.rows, 8))
    assert not loader_threads()


def test_no_requests_no_batches(loader: Loader) -> None:
    assert list(loader.stream([])) == []
    assert not loader_threads()


@pytest.mark.parametrize(
    ("key", "value"), [("batch", 0), ("words", 0), ("threads", 0), ("size", 0), ("size", 50), ("size", -32)]
)
def test_values_that_cannot_work_are_named(key: str, value: int) -> None:
    options: dict[str, Any] = {key: value}
    with pytest.raises(ConfigError, match=rf"^data\.{key}: {value}: expected"):
        DataConfig("folder", **options)
