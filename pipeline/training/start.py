"""What a run starts from: nothing, an earlier stage's weights, or its own last checkpoint."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.answers import learned, unlearned
from laconvnet.pipeline.data.counts import answer_counts, held_out_tokens, token_counts
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.flip import flip_words
from laconvnet.pipeline.data.loader import DataConfig
from laconvnet.pipeline.data.text import Vocabulary, count_words
from laconvnet.pipeline.data.vectors import read_vectors, vectors_of
from laconvnet.pipeline.distributed import ALONE, Ranks
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import Model, build_model, draws
from laconvnet.pipeline.model.backbones import load_weights
from laconvnet.pipeline.model.plugin import PlugIn
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.training import checkpoint
from laconvnet.pipeline.training.inherit import WORDS, inherit


@dataclass(frozen=True)
class Learned:
    """What a first start makes of texts, answers and word vectors: ``vectors`` (words, D) where these are frozen, else
    None, and what the log says of words and of answers.
    """

    vocabulary: Vocabulary
    vectors: NDArray[np.float32] | None
    of_words: str
    of_answers: str


@dataclass(frozen=True)
class Start:
    """A model ready to be wrapped, its vocabulary, and the state to go on from (None at the first start)."""

    model: Model
    vocabulary: Vocabulary
    state: dict[str, Any] | None
    summary: str

    @property
    def step(self) -> int:
        return int(self.state["step"]) if self.state else 0


def start(config: TrainConfig, own: checkpoint.Saved | None, examples: Examples, ranks: Ranks = ALONE) -> Start:
    """Resume what the run itself has saved, else begin: `init_from` is looked at only at the very first start.

    The main process of ``ranks``, all of which must call this, counts the words and answers of all examples for them.

    Raises ConfigError where the checkpoint was made on other data than ``examples``, or does not fit.
    """
    torch.manual_seed(config.seed)
    if own:
        check_data(config, examples, own)
        vocabulary = Vocabulary.from_json(own.vocabulary)
        summary = f"resuming {own.place}{_other_draws(own.state)}"
        return Start(rebuild(config, vocabulary, own.state["model"]), vocabulary, own.state, summary)
    if config.init_from:
        return _inherit(config, examples, checkpoints.choose(Path(config.init_from)), ranks)
    made = _learned(config, examples, Vocabulary(()), ranks)
    model, summary = _fresh(config, made), made.of_words
    if config.model.backbone_weights:
        assert isinstance(model.visual, PlugIn)
        summary = f"{summary}; {load_weights(model.visual.backbone, Path(config.model.backbone_weights))}"
    return Start(model, made.vocabulary, None, f"new run: {summary}{made.of_answers}")


def check_data(config: TrainConfig, examples: Examples, own: checkpoint.Saved) -> None:
    """Raises ConfigError where what the run has saved was trained on other data than ``examples``."""
    if own.state["data"] != examples.fingerprint:
        raise ConfigError(
            f"{config.data.folder}: is another build than the one that {own.place} was trained on, so the order of "
            "samples is lost; put that build back, or start another run with --init_from"
        )


def rebuild(config: TrainConfig, vocabulary: Vocabulary, weights: dict[str, Tensor]) -> Model:
    """The model that these weights were saved from, with them in it.

    Raises RuntimeError where the names, or the shape of one, are not those of the configuration's model.
    """
    # Frozen word vectors are among the weights: their file need not be there any more.
    vectors = torch.empty_like(weights[WORDS]) if config.data.vectors else None
    model = build_model(config.model, len(vocabulary), len(vocabulary.answers), vectors)
    model.load_state_dict(weights, strict=True)
    return model


def _other_draws(state: dict[str, Any]) -> str:
    """What the log says of a checkpoint whose run drew dropout by another rule."""
    theirs = state.get("draws", 1)
    if theirs == draws.VERSION:
        return ""
    return (
        f"; it was trained with dropout drawn by rule {theirs}, this version draws by rule {draws.VERSION}: the run "
        "goes on with other masks, so not bit for bit"
    )


def _fresh(config: TrainConfig, made: Learned) -> Model:
    vocabulary, vectors = made.vocabulary, None if made.vectors is None else torch.from_numpy(made.vectors)
    return build_model(config.model, len(vocabulary), len(vocabulary.answers), vectors)


def _learned(config: TrainConfig, examples: Examples, earlier: Vocabulary, ranks: Ranks) -> Learned:
    """Words, answers and word vectors of this run: counted and read once, by the main process."""

    def counted() -> Learned:
        vocabulary = _vocabulary(examples, earlier, config.data.flip > 0, config.data.answer_minimum)
        of_answers = _of_answers(examples, vocabulary)
        if config.data.vectors is None:
            return Learned(vocabulary, None, f"{len(vocabulary.words)} words, their vectors learned", of_answers)
        return _with_vectors(Path(config.data.vectors), examples, vocabulary, config.seed, of_answers)

    return ranks.from_main(counted)


def _with_vectors(path: Path, examples: Examples, vocabulary: Vocabulary, seed: int, of_answers: str) -> Learned:
    """Frozen vectors, and behind the words of training those of held-out texts that the file knows.

    Such a word's vector is the file's, whatever is trained: it tells of no held-out text more than that it was said.
    """
    held_out = _ranked_behind(vocabulary.words, held_out_tokens(examples))
    found = read_vectors(path, {*vocabulary.words, *held_out})
    known = tuple(word for word in held_out if word in found)
    of_training = len(found) - len(known)
    summary = f"{of_training} of {len(vocabulary.words)} words have vectors in {path}, frozen"
    if held_out:
        summary += f", and {len(known)} of {len(held_out)} that only held-out texts have"
    whole = replace(vocabulary, words=vocabulary.words + known)
    return Learned(whole, vectors_of(whole, found, seed), summary, of_answers)


def _ranked_behind(words: tuple[str, ...], tokens: Counter[str]) -> tuple[str, ...]:
    """The words of these tokens that are none of ``words``, the frequent ones first."""
    return _behind(words, Vocabulary.of_counts(count_words(tokens), {}).words)[len(words) :]


def _vocabulary(
    examples: Examples, earlier: Vocabulary, mirrored: bool = False, minimum: int = DataConfig.answer_minimum
) -> Vocabulary:
    """Words and answers of the training split behind those of an earlier stage, which keep their numbers.

    Where several people answered, only answers of ``minimum`` questions; raises ConfigError where none has so many.
    """
    is_question = examples.kind == "question"
    answers = answer_counts(examples) if is_question else Counter[str]()
    several = is_question and examples.several
    if several:
        answers = Counter(learned(answers, minimum))
        if not answers:
            raise ConfigError(
                f"data.answer_minimum: {minimum}: {examples.manifest.folder}, split {examples.split!r}, has no answer "
                "of so many questions; expected a smaller number"
            )
    # Mirrored, an expression may say a word that the set does not.
    found = Vocabulary.of_counts(count_words(token_counts(examples), flip_words if mirrored else None), answers)
    return Vocabulary(
        _behind(earlier.words, found.words), _behind(earlier.answers if is_question else (), found.answers), several
    )


def _of_answers(examples: Examples, vocabulary: Vocabulary) -> str:
    """What the log says of the answers where only the frequent ones are learned."""
    if not vocabulary.soft:
        return ""
    pieces = examples.manifest.example_columns.pieces("answers", examples.rows)
    missed = sum(unlearned(people, vocabulary) for _, people in pieces)
    return f"; {len(vocabulary.answers)} answers, {missed} of {len(examples.rows)} questions have none of them"


def _behind(earlier: tuple[str, ...], found: tuple[str, ...]) -> tuple[str, ...]:
    known = set(earlier)
    return earlier + tuple(name for name in found if name not in known)


def _inherit(config: TrainConfig, examples: Examples, chosen: checkpoints.Chosen, ranks: Ranks) -> Start:
    """Take what fits of the EMA weights of an earlier stage (`pipeline.training.inherit`).

    The vocabulary is the earlier stage's with new words and answers behind it, whose weights start fresh.
    """
    state, stored = checkpoint.read(chosen.folder)
    earlier = Vocabulary.from_json(stored)
    made = _learned(config, examples, earlier, ranks)
    vocabulary, model = made.vocabulary, _fresh(config, made)
    inherited = inherit(model, state["ema"] or state["model"], chosen.folder)
    words, answers = len(vocabulary.words) - len(earlier.words), len({*vocabulary.answers} - {*earlier.answers})
    summary = f"init from {chosen.folder} ({chosen}): {inherited}; {words} new words, {answers} new answers"
    return Start(model, vocabulary, None, f"{summary}{made.of_answers}")
