"""Entailment: a set of SNLI-VE's layout, from its files through two steps of training to the accuracy."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.loader import DataConfig, Loader, Request
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.model import ModelConfig, build_model
from laconvnet.pipeline.tasks import TASKS

LABELS = ("entailment", "neutral", "contradiction")
PICTURES = 4


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A built set: images of one colour, each with one hypothesis a label, in train and in val."""
    from laconvnet.shards.build.builder import build
    from laconvnet.shards.sources import get

    raw = tmp_path / "raw"
    (raw / "flickr30k_images").mkdir(parents=True)
    for split, first in (("train", 0), ("dev", PICTURES)):
        lines = []
        for image in range(first, first + PICTURES):
            Image.new("RGB", (48, 32), (60 * (image % 4), 90, 30)).save(raw / "flickr30k_images" / f"{image}.jpg")
            for number, label in enumerate(LABELS):
                fields = {"gold_label": label, "sentence2": f"a {('plain', 'dull', 'round')[number]} image"}
                lines.append(json.dumps({"Flickr30K_ID": str(image), "pairID": f"{image}r{number}", **fields}))
        (raw / f"snli_ve_{split}.jsonl").write_text("\n".join(lines))
    source = get("snli_ve")
    samples = source.samples(raw, images=None, splits=None, partition=None)
    build(samples, tmp_path / "built", source=source.name, licence=source.licence, options={}, progress=False)
    return tmp_path / "built"


def test_three_answers_are_learnt_and_scored(pairs: Path) -> None:
    task_class = TASKS["entailment"]
    training, held_out = (Examples.open(pairs, task_class.kind, split) for split in ("train", "val"))
    task_class.check(training)
    answers = [answer for answer in training.answers(training.rows) if answer is not None]
    vocabulary = Vocabulary.build(training.texts(training.rows), answers)
    assert set(vocabulary.answers) == set(LABELS)
    assert len(training.rows) == len(held_out.rows) == 3 * PICTURES
    torch.manual_seed(0)
    config = ModelConfig(preset="tiny", task="entailment")
    model = build_model(config, len(vocabulary), len(vocabulary.answers)).train()
    task = task_class(config, vocabulary)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, 1e-3)
    device, data = torch.device("cpu"), DataConfig(folder=str(pairs), size=64, words=8, batch=12, threads=1)
    with closing(Loader(training, vocabulary, data, 12, device)) as loader:
        batch = loader.batch(Request(training.rows))
        for _ in range(2):
            output = model(batch.images, batch.tokens)
            assert output.shape == (12, 3)
            loss = task.loss(output, batch)["answer"]
            assert loss.isfinite()
            optimizer.zero_grad()
            before = [parameter.detach().clone() for parameter in trained]
            loss.backward()
            optimizer.step()
            assert any(bool((a != b).any()) for a, b in zip(before, trained, strict=True))
    model.eval()
    with closing(Loader(held_out, vocabulary, data, 12, device)) as loader, torch.no_grad():
        batch = loader.batch(Request(held_out.rows))
        predicted = task.answer(model(batch.images, batch.tokens), batch)
    assert {answer["answer"] for answer in predicted} <= set(LABELS)
    sums = task.score(predicted, held_out, held_out.rows)
    right = sum(
        answer["answer"] == truth for answer, truth in zip(predicted, held_out.answers(held_out.rows), strict=True)
    )
    assert {name: pair.tolist() for name, pair in sums.items()} == {"accuracy": [right, 12]}
    truths = [{"answer": answer} for answer in held_out.answers(held_out.rows)]
    np.testing.assert_array_equal(task.score(truths, held_out, held_out.rows)["accuracy"], [12, 12])
