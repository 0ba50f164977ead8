"""The whole model: word encoder, LaConvNet and a task's head."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.model.heads.rec import RecHead, RecHeadConfig
from pipeline.model.heads.vqa import VqaHead, VqaHeadConfig
from pipeline.model.language import LanguageConfig, LanguageEncoder
from pipeline.model.net import FIVE, PRESETS, LaConvNet, NetConfig, check

Task = Literal["rec", "vqa"]


@dataclass(frozen=True)
class ModelConfig:
    """The network and its task. None takes the preset's value; other values are the ablations of v2 Tab. 10.

    Args:
        preset: tiny, 10, 15, 19, s, b, s_released or b_released.
        task: What the head answers.
        language: The word encoder.
        rec: The head for referring expressions.
        vqa: The head for questions.
        groups: Filter groups of each of the five stages.
        kernel_size: Kernel size of every block.
        packing: Packing size of each of the five stages.
        generator: Filters from picture and words (affinity), or from words alone.
        filter_dropout: Dropout on the filters (0.1; tiny 0).
        affinity_dropout: Dropout on the affinities between pixels and words (0.1).
    """

    preset: str = "s"
    task: Task = "rec"
    language: LanguageConfig = field(default_factory=LanguageConfig)
    rec: RecHeadConfig = field(default_factory=RecHeadConfig)
    vqa: VqaHeadConfig = field(default_factory=VqaHeadConfig)
    groups: FIVE | None = None
    kernel_size: int | None = None
    packing: FIVE | None = None
    generator: Literal["affinity", "words"] = "affinity"
    filter_dropout: float | None = None
    affinity_dropout: float | None = None

    def net(self) -> NetConfig:
        """The visual network with what is given here put in place of the preset's. Raises ConfigError."""
        if self.preset not in PRESETS:
            raise ConfigError(f"model.preset: expected one of {' '.join(PRESETS)}, got {self.preset!r}")
        net = replace(PRESETS[self.preset], generator=self.generator)
        if self.kernel_size is not None:
            net = replace(net, kernels=tuple((self.kernel_size,) * depth for depth in net.depths))
        if self.language.hidden is not None:
            net = replace(net, words=self.language.hidden)
        given = {name: getattr(self, name) for name in ("groups", "packing", "filter_dropout", "affinity_dropout")}
        return check(replace(net, **{name: value for name, value in given.items() if value is not None}))


class Model(nn.Module):
    """images (B, 3, S, S) in [0, 1], tokens (B, L) int64, PAD 0 -> the head's output.

    REC: (B, anchors, 5, h, w), see `RecHead`; VQA: logits (B, answers). The state dict has the prefixes `language.`,
    `visual.` and `head.`; the first two do not depend on the task.
    """

    def __init__(
        self, config: ModelConfig, language: LanguageEncoder, visual: LaConvNet, head: RecHead | VqaHead
    ) -> None:
        super().__init__()
        self.config = config
        self.language, self.visual, self.head = language, visual, head

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        words, mask = self.language(tokens)
        return self.head(self.visual(images, words, mask), words, mask)


def build_model(config: ModelConfig, vocabulary_size: int, answers: int = 0, vectors: Tensor | None = None) -> Model:
    """The model of a configuration, freshly initialised from torch's random state.

    `vectors` (vocabulary_size, word_dim) are the frozen word vectors; without them the word vectors are learned.
    `answers` is the number of answers of a VQA task. Raises ConfigError naming the key that does not fit.
    """
    net = config.net()
    language = _language(config.language, net, vocabulary_size, vectors)
    visual = LaConvNet(net)
    head: RecHead | VqaHead
    if config.task == "rec":
        if config.rec.stride not in (8, 16, 32):
            raise ConfigError(f"model.rec.stride: expected 8, 16 or 32, got {config.rec.stride}")
        if not config.rec.anchors:
            raise ConfigError("model.rec.anchors: expected at least one (width, height) in pixels, got none")
        head = RecHead(config.rec, net.dims, config.rec.hidden or net.words)
    elif config.task == "vqa":
        if answers < 1:
            raise ConfigError(f"answers: task vqa needs the number of answers of the data set, got {answers}")
        head = VqaHead(config.vqa, net.dims, net.words, config.vqa.pooled or 2 * net.words, answers)
    else:
        raise ConfigError(f"model.task: expected rec or vqa, got {config.task!r}")
    return Model(config, language, visual, head)


def _language(config: LanguageConfig, net: NetConfig, vocabulary_size: int, vectors: Tensor | None) -> LanguageEncoder:
    word_dim = config.word_dim or (net.word_dim if vectors is None else vectors.shape[1])
    if vectors is not None and vectors.shape != (vocabulary_size, word_dim):
        raise ConfigError(
            f"vectors: expected ({vocabulary_size}, {word_dim}), a vector of model.language.word_dim numbers "
            f"for every word of the vocabulary, got {tuple(vectors.shape)}"
        )
    if net.words % config.heads:
        raise ConfigError(f"model.language.heads: expected a divisor of hidden = {net.words}, got {config.heads}")
    layers = net.language_layers if config.layers is None else config.layers
    return LanguageEncoder(
        vocabulary_size,
        word_dim,
        net.words,
        layers,
        config.rnn or net.language_rnn,
        config.heads,
        config.ffn or 4 * net.words,
        config.dropout,
        vectors,
    )
