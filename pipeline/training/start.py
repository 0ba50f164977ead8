"""What a run starts from: nothing, an earlier stage's weights, or its own last checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.data.examples import Examples
from pipeline.data.text import Vocabulary, load_glove
from pipeline.errors import ConfigError
from pipeline.model import Model, build_model
from pipeline.training import checkpoint

_WORDS = "language.embedding.weight"


@dataclass(frozen=True)
class Start:
    """A model ready to be wrapped, its vocabulary, and the state to go on from (None at the first start)."""

    model: Model
    vocabulary: Vocabulary
    state: dict[str, Any] | None
    told: str

    @property
    def step(self) -> int:
        return int(self.state["step"]) if self.state else 0


def start(config: TrainConfig, run: Path, examples: Examples) -> Start:
    """Resume the run's own newest checkpoint, else begin: `init_from` is looked at only at the very first start."""
    torch.manual_seed(config.seed)
    own = checkpoint.newest(run)
    if own:
        state, words = checkpoint.read(own)
        vocabulary = Vocabulary.from_json(words)
        model = build(config, vocabulary, None)
        model.load_state_dict(state["model"], strict=True)
        return Start(model, vocabulary, state, f"resuming {own}: step {state['step']}")
    if config.init_from:
        return _inherit(config, examples, checkpoint.resolve(Path(config.init_from)))
    vocabulary = _vocabulary(examples)
    vectors, told = None, f"new run: {len(vocabulary)} words, learned"
    if config.data.vectors:
        known, found = load_glove(Path(config.data.vectors), vocabulary, config.seed)
        vectors = torch.from_numpy(known)
        told = f"new run: {found} of {len(vocabulary.words)} words have vectors in {config.data.vectors}, frozen"
    return Start(build(config, vocabulary, vectors), vocabulary, None, told)


def build(config: TrainConfig, vocabulary: Vocabulary, vectors: Tensor | None) -> Model:
    """The model of a configuration; frozen word vectors are zeros to be loaded when ``vectors`` is None."""
    if vectors is None and config.data.vectors:
        width = config.model.language.word_dim or 300
        vectors = torch.zeros(len(vocabulary), width)
    return build_model(config.model, len(vocabulary), len(vocabulary.answers), vectors)


def _vocabulary(examples: Examples, words: tuple[str, ...] = ()) -> Vocabulary:
    """Words and answers of the training split; ``words`` come first and keep their numbers."""
    found = Vocabulary.build(
        examples.texts(examples.rows),
        (answer for answer in examples.answers(examples.rows) if answer is not None)
        if examples.kind == "question"
        else (),
    )
    known = set(words)
    return Vocabulary(words + tuple(word for word in found.words if word not in known), found.answers)


def _inherit(config: TrainConfig, examples: Examples, place: Path) -> Start:
    """Take the averaged weights of an earlier stage: those of words and vision, the head if the task is the same.

    The vocabulary is the earlier stage's with new words behind it, whose vectors start fresh.
    """
    state, stored = checkpoint.read(place)
    earlier = Vocabulary.from_json(stored)
    vocabulary = _vocabulary(examples, earlier.words)
    if config.data.vectors:
        vectors, _ = load_glove(Path(config.data.vectors), vocabulary, config.seed)
        model = build(config, vocabulary, torch.from_numpy(vectors))
    else:
        model = build(config, vocabulary, None)
    given: dict[str, Tensor] = state["ema"] or state["model"]
    wanted = model.state_dict()
    same_task = state["task"] == config.model.task and vocabulary.answers == earlier.answers
    taken = [name for name in wanted if same_task or not name.startswith("head.")]
    missing = [name for name in taken if name not in given]
    if missing:
        raise ConfigError(
            f"init_from: {place}: lacks {missing[0]} and {len(missing) - 1} more; is model.preset the same?"
        )
    for name in taken:
        value = given[name]
        if name == _WORDS and value.shape[1:] == wanted[name].shape[1:]:
            wanted[name][: len(value)] = value
            continue
        if value.shape != wanted[name].shape:
            raise ConfigError(
                f"init_from: {place}: {name} has shape {tuple(value.shape)}, this model {tuple(wanted[name].shape)}; "
                "model and data.vectors must be those of the earlier stage"
            )
        wanted[name] = value
    model.load_state_dict(wanted, strict=True)
    fresh = sorted({name.split(".")[0] for name in wanted if name not in taken})
    new_words = len(vocabulary.words) - len(earlier.words)
    told = f"init from {place} (step {state['step']}): {len(taken)} tensors taken, {new_words} new words"
    return Start(model, vocabulary, None, f"{told}, new: {', '.join(fresh) or 'nothing'}")
