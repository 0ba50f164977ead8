"""Mirrored examples and masks in training: what the loader is asked for, and the words that may come up."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.loader import DataConfig, Request
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import ModelConfig
from laconvnet.pipeline.training.engine import EngineConfig
from laconvnet.pipeline.training.session import Session, Source
from laconvnet.pipeline.training.start import _vocabulary


def config_of(folder: Path, task: str, flip: float, accumulate: int = 1) -> TrainConfig:
    data = DataConfig(str(folder), size=64, batch=8, flip=flip)
    return TrainConfig(data, ModelConfig(preset="tiny", task=task), engine=EngineConfig(accumulate=accumulate))


def requests_of(config: TrainConfig, rank: int = 0, world: int = 1, first: int = 0) -> list[Request]:
    source = Source.open(config)
    some = SimpleNamespace(config=config, source=source, engine=SimpleNamespace(rank=rank, world=world))
    return list(islice(Session.requests(some, first), 6 * config.engine.accumulate))  # type: ignore[arg-type]


def flips(request: Request) -> list[bool]:
    assert request.flipped is not None
    return [bool(each) for each in request.flipped]


def test_the_stream_asks_for_mirrored_examples(groups: Path) -> None:
    requests = requests_of(config_of(groups, "grec", 0.5))
    struck = [flips(request) for request in requests]
    assert 0.2 < np.mean(struck) < 0.8
    assert not np.any([flips(request) for request in requests_of(config_of(groups, "grec", 0.0))])
    assert np.all([flips(request) for request in requests_of(config_of(groups, "grec", 1.0))])
    later = requests_of(config_of(groups, "grec", 0.5), first=2)
    assert [flips(request) for request in later[:4]] == struck[2:]
    halves = [requests_of(config_of(groups, "grec", 0.5), rank, 2) for rank in (0, 1)]
    assert [flips(one) + flips(two) for one, two in zip(*halves, strict=True)] == struck
    parts = requests_of(config_of(groups, "grec", 0.5, accumulate=2))
    assert [flips(one) + flips(two) for one, two in zip(parts[::2], parts[1::2], strict=True)] == struck
    assert [one.rows.tolist() + two.rows.tolist() for one, two in zip(parts[::2], parts[1::2], strict=True)] == [
        request.rows.tolist() for request in requests
    ]


def test_a_set_that_a_task_cannot_be_taught_by_is_refused(groups: Path, sets: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="4 of 20 expressions speak of no object"):
        Source.open(config_of(groups, "res", 0.0))
    with pytest.raises(ConfigError, match="expressions have no mask"):
        Source.open(config_of(sets["visual_genome"], "res", 0.0))
    assert Source.open(config_of(groups, "grec", 0.0)).total > 0


def test_words_that_only_the_mirror_says_are_known(groups: Path) -> None:
    examples = Examples.open(groups, "expression", "train")
    texts = examples.texts(examples.rows)
    only_left = Examples(
        examples.manifest, "expression", "train", examples.rows[["right" not in text for text in texts]]
    )
    assert "right" not in _vocabulary(only_left, Vocabulary(())).words
    assert "right" in _vocabulary(only_left, Vocabulary(()), mirrored=True).words
