"""Half precision stays near float32, and masks survive it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.pipeline.model import LanguageConfig, Model, ModelConfig, build_model
from laconvnet.pipeline.model.heads import HEADS
from laconvnet.pipeline.model.language import PAD
from laconvnet.pipeline.model.norm import BatchNorm

HALVES = (torch.bfloat16, torch.float16)
# How an untrained network of its depth carries an error forward is its own affair: what is bounded is the error against
# that of float32 on weights and images that were rounded to the type once.
TIMES = 5.0
# The relative error, in norm, of the paper's own head.
BOUNDS = {torch.bfloat16: 0.05, torch.float16: 0.01}
TASKS = [(head.tasks[0], name) for name, head in HEADS.items()]


def make(task: str, head: str, images: Tensor, tokens: Tensor) -> Model:
    """For evaluation, with the statistics of this batch: by fresh ones the output hardly depends on the input."""
    torch.manual_seed(0)
    language = LanguageConfig(dropout=0.0)
    config = ModelConfig(preset="tiny", task=task, head=head, affinity_dropout=0.0, language=language)
    model = build_model(config, 30, answers=7).train()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model(images, tokens)
    return model.eval()


def batch() -> tuple[Tensor, Tensor]:
    """Some of the expressions are a single word and fourteen places of padding."""
    torch.manual_seed(1)
    tokens = torch.randint(2, 30, (6, 15))
    tokens[:2, 1:] = PAD
    tokens[2:4, 6:] = PAD
    # Noise looks alike everywhere once it is averaged: the images have patches.
    return F.interpolate(torch.rand(6, 3, 8, 8), scale_factor=8), tokens


def error(near: Tensor, exact: Tensor) -> float:
    return float((near.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("task", "head"), TASKS)
def test_half_precision_stays_near(task: str, head: str, dtype: torch.dtype) -> None:
    images, tokens = batch()
    model = make(task, head, images, tokens)
    with torch.no_grad():
        exact = model(images, tokens)
        with torch.autocast("cpu", dtype):
            mixed = model(images, tokens)
        rounded = copy.deepcopy(model).to(dtype).float()(images.to(dtype).float(), tokens)
        cast = model.to(dtype)(images.to(dtype), tokens)
    assert cast.dtype == dtype
    bound = TIMES * max(map(error, rounded, exact))
    for near in (mixed, cast):
        assert near.isfinite().all()
        # Image by image: those with a single word must not hide behind the others.
        errors = list(map(error, near, exact))
        assert max(errors) < bound
        if head == "anchors":
            assert max(errors) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_of_padded_words_are_finite(dtype: torch.dtype) -> None:
    images, tokens = batch()
    model = make("rec", "anchors", images, tokens).train()
    with torch.autocast("cpu", dtype):
        out = model(images, tokens)
    out.float().square().mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None or not grad.isfinite().all()] == []
    words = grads["language.embedding.weight"]
    assert words is not None
    assert words[tokens[0, 0]].abs().max() > 0
    # Padding takes part in the recurrence behind the last word and in nothing that is read.
    assert words[PAD].abs().max() == 0
