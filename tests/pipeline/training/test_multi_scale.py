"""Multi-scale training: one side a step, the same on every rank and after a resume; boxes and masks fit it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.loader import Batch, DataConfig, Loader, Request, requests_of
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.training.session import Source
from tests.pipeline.training.ranks import train
from tests.pipeline.training.test_resume import drop_after, last_state, losses

TINY = Path(__file__).parent / "tiny.yaml"
SIZES = (32, 64, 96)


def config(folder: Path, seed: int = 0, sizes: tuple[int, ...] = SIZES) -> TrainConfig:
    keys = ["--data.folder", str(folder), "--seed", str(seed), "--data.sizes", str(list(sizes))]
    return configuration.load(TINY, [*keys, "--data.flip", "0.5", "--data.jitter", "0.2"])


def sides(run: TrainConfig, steps: int = 60, rank: int = 0, world: int = 1, parts: int = 1) -> list[int | None]:
    items = Source.open(run).items
    found: list[int | None] = []
    for step in range(steps):
        of_step = {request.size for request in requests_of(items, run.data, step, rank, world, parts)}
        assert len(of_step) == 1, "micro-batches of a step are alike"
        found += of_step
    return found


def test_a_side_is_drawn_for_each_step_alone(refcoco: Path) -> None:
    drawn = sides(config(refcoco))
    assert set(drawn) == set(SIZES)
    assert min(drawn.count(size) for size in SIZES) > 10
    assert sides(config(refcoco), rank=3, world=4, parts=2) == drawn
    assert sides(config(refcoco, seed=1)) != drawn
    assert set(sides(config(refcoco, sizes=()))) == {None}


def batch_of(folder: Path, data: DataConfig, requests: list[Request]) -> list[Batch]:
    examples = Source.open(replace(config(folder), data=data)).examples
    words = Vocabulary.build(examples.texts(examples.rows))
    with closing(Loader(examples, words, data, data.batch, torch.device("cpu"), masks=True)) as loader:
        return [loader.batch(request) for request in requests]


def test_a_batch_of_a_drawn_side_is_that_of_a_training_at_it(refcoco: Path) -> None:
    """Image, box and mask, flipped, moved or not; one loader makes all sides in turn."""
    run = config(refcoco)
    (request,) = requests_of(Source.open(run).items, run.data, 0, 0, 1, 1)
    drawn = batch_of(refcoco, run.data, [replace(request, size=size) for size in (96, 32, 64, 96)])
    for batch, size in zip(drawn, (96, 32, 64, 96), strict=True):
        (plain,) = batch_of(refcoco, replace(run.data, size=size, sizes=()), [replace(request, size=None)])
        assert batch.images.shape[2:] == (size, size)
        assert batch.letterbox.size == size
        for name in ("images", "boxes", "masks", "tokens"):
            torch.testing.assert_close(getattr(batch, name), getattr(plain, name), rtol=0, atol=0)
    assert np.isfinite(drawn[0].boxes).all()
    assert drawn[0].boxes.max() > 64, "in pixels of its own square"


def test_a_resume_goes_on_with_the_sides_of_its_steps(refcoco: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [
        "--config",
        str(TINY),
        "--data.folder",
        str(refcoco),
        "--data.sizes",
        "[32, 64]",
        "--checkpoint.keep",
        "9",
    ]
    train(1, folder, command)
    whole, state = losses(folder), last_state(folder)
    assert len(set(sides(config(refcoco, sizes=(32, 64)), len(whole))[4:])) == 2, "both come after the resume"
    drop_after(folder, 4)
    train(1, folder, command)
    assert losses(folder) == whole
    again = last_state(folder)
    for name, tensor in state["model"].items():
        assert torch.equal(again["model"][name], tensor), name


@pytest.mark.parametrize("sizes", [(33,), (64, 0), (64, -32)])
def test_sides_that_no_network_takes_are_refused(sizes: tuple[int, ...]) -> None:
    wrong = sizes[-1]
    with pytest.raises(ConfigError, match=rf"data\.sizes: {wrong}: expected a multiple of 32"):
        DataConfig("x", sizes=sizes)
