"""What ranks do once at a start, and for batch norm in each step, whatever the size of the world."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from laconvnet.kernels.bench import Row
from laconvnet.pipeline.bench.reads import NODE
from laconvnet.pipeline.bench.rows import counted
from laconvnet.pipeline.data.flip import flip_words
from laconvnet.pipeline.data.text import count_tokens, count_words
from laconvnet.pipeline.model import ModelConfig, batch_statistics, build_model
from laconvnet.pipeline.model.batch_statistics import global_statistics, global_sums
from laconvnet.pipeline.model.norm import BatchNorm

TEXTS, WORDS = 1_000_000, 30_000  # made texts of 2 to 12 words, of which the frequent ones are as in a language
WORLDS = (32, 512, 8000)


def vocabulary(samples: int) -> Iterator[Row]:
    """Seconds of a processor for the vocabulary of a set with an expression an image, on the one rank that makes it."""
    texts = made_texts()
    tokens = count_tokens([texts])
    for flip, variant in (("", None), (" and their mirror", flip_words)):
        stored = _seconds(partial(count_words, tokens, variant))
        read = _seconds(partial(_read, texts, variant))
        yield counted(f"counted at the build{flip}", "vocabulary of 1e6 texts", stored, "s")
        yield counted(f"read by rank 0{flip}", "vocabulary of 1e6 texts", read, "s")
        yield counted(f"read by rank 0{flip}", "vocabulary of all texts", read * samples / TEXTS, "s")


def _read(texts: pa.Array, variant: Callable[[str], str] | None) -> object:
    return count_words(count_tokens([texts]), variant)


def looks(world: int, shards: int) -> Iterator[Row]:
    """Calls of the file system for the sizes of shards, by all ranks."""
    yield counted("one rank a node", "shards looked at", -(-world // NODE) * shards / 1e6, "million calls")
    yield counted("each rank", "shards looked at", world * shards / 1e6, "million calls")


def statistics() -> Iterator[Row]:
    """Seconds of a rank's processor in a step of S for what batch norm exchanges, without the exchange itself."""
    with torch.device("meta"):
        model = build_model(ModelConfig(preset="s", task="rec"), 100, 0)
    channels = [module.running_mean.numel() for module in model.modules() if isinstance(module, BatchNorm)]
    own = [(torch.rand(2 * count + 1), torch.rand(2 * count)) for count in channels]

    def step() -> None:
        for forward, backward in own:
            global_statistics(forward)
            global_sums(backward)

    for world in WORLDS:
        for name, gathered in (("gathers", world), ("sums", 1)):
            dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
            try:
                with mock.patch.object(batch_statistics, "GATHERED", gathered):
                    yield counted(name, "statistics of a step", _seconds(step), "s", world=world)
            finally:
                dist.destroy_process_group()


def made_texts() -> pa.Array:
    draw = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(WORDS)])
    often = 1 / np.arange(1, WORDS + 1)
    lengths = draw.integers(2, 13, TEXTS)
    said = words[draw.choice(WORDS, lengths.sum(), p=often / often.sum())]
    ends = np.cumsum(lengths)
    return pa.array([" ".join(said[end - length : end]) for end, length in zip(ends, lengths, strict=True)])


def _seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The least that this took of a processor in so many rounds, the first of which is not counted."""
    taken = []
    for _ in range(rounds + 1):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return min(taken[1:])
