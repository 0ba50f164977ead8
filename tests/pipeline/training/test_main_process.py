"""What the main process finds for all: once, the same to the byte, however long it takes, and its mistakes too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.distributed import ALONE
from laconvnet.pipeline.training import start as module
from tests.pipeline.training.ranks import run

TINY = Path(__file__).resolve().parent / "tiny.yaml"
WORLD = 3
_JOINED = """
import datetime, json, os, time
import torch.distributed as dist
from pathlib import Path
from laconvnet.pipeline.distributed import Ranks
from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.shards.errors import InputError
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=2))
ranks = Ranks(dist.get_rank(), dist.get_world_size())
"""
_LEFT = """
dist.barrier()
dist.destroy_process_group()
"""
_SLOW = """
called = []
def slow():
    called.append(ranks.rank)
    time.sleep(5)
    return {"words": ["é", "b"]}
first = ranks.from_main(slow)
second = ranks.from_main(lambda: called.append("second") or 7)
print(json.dumps([first, second, called]))
"""
_MISTAKE = """
def mistaken():
    raise {error}("data.answer_minimum: 9: too many")
try:
    ranks.from_main(mistaken)
except ({error}, {of_others}) as error:
    print(type(error).__name__, error)
assert ranks.from_main(lambda: 5) == 5
"""
_VOCABULARY = """
from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.training import start as module
counted, vocabulary_of = [], module._vocabulary
def counting(*arguments, **options):
    counted.append(ranks.rank)
    return vocabulary_of(*arguments, **options)
module._vocabulary = counting
config = configuration.load(Path({tiny!r}), ["--data.folder", {folder!r}, "--data.flip", "0.5"])
started = module.start(config, None, Examples.open(Path({folder!r}), "expression", "train"), ranks)
print(json.dumps([started.vocabulary.to_json(), len(counted), started.summary]))
"""


def last(output: str) -> str:
    return output.strip().splitlines()[-1]


def test_the_others_wait_longer_than_a_collective_would() -> None:
    outputs = [json.loads(last(output)) for output in run(WORLD, ["-c", _JOINED + _SLOW + _LEFT])]
    assert [found[:2] for found in outputs] == [[{"words": ["é", "b"]}, 7]] * WORLD
    assert [found[2] for found in outputs] == [[0, "second"], [], []]


@pytest.mark.parametrize(
    ("error", "of_others"),
    [("ConfigError", "ConfigError"), ("InputError", "ConfigError"), ("OSError", "TrainingError")],
)
def test_where_the_main_process_fails_all_do(error: str, of_others: str) -> None:
    main, *others = (
        last(output)
        for output in run(WORLD, ["-c", _JOINED + _MISTAKE.format(error=error, of_others=of_others) + _LEFT])
    )
    assert main == f"{error} data.answer_minimum: 9: too many"
    assert others == [f"{of_others} process 0: data.answer_minimum: 9: too many"] * (WORLD - 1)


def test_one_process_counts_the_words_of_all_texts(refcoco: Path) -> None:
    script = _JOINED + _VOCABULARY.format(tiny=str(TINY), folder=str(refcoco)) + _LEFT
    outputs = [json.loads(last(output)) for output in run(WORLD, ["-c", script])]
    assert [counted for _, counted, _ in outputs] == [1, 0, 0]
    config = configuration.load(TINY, ["--data.folder", str(refcoco), "--data.flip", "0.5"])
    alone = module.start(config, None, Examples.open(refcoco, "expression", "train"), ALONE)
    assert {(text, summary) for text, _, summary in outputs} == {(alone.vocabulary.to_json(), alone.summary)}
    assert Vocabulary.from_json(outputs[2][0]) == alone.vocabulary
    assert len(alone.vocabulary.words) > 10
