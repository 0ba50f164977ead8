"""The whole model: word encoder, visual network and a task's head."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.backbones import BACKBONES
from laconvnet.pipeline.model.blocks import BLOCKS
from laconvnet.pipeline.model.draws import check_dropout
from laconvnet.pipeline.model.heads import HEADS, TASKS, Features, Head, HeadsConfig, heads_of
from laconvnet.pipeline.model.language import LanguageConfig, LanguageEncoder
from laconvnet.pipeline.model.net import FIVE, PRESETS, LaConvNet, NetConfig, check
from laconvnet.pipeline.model.plugin import PlugIn

# What a configuration may put in place of the preset's value, field for field.
_OF_NET = ("groups", "packing", "conditions", "filter_dropout", "affinity_dropout")


@dataclass(frozen=True)
class ModelConfig:
    """The network and its task. None takes the preset's value; other values are the ablations of v2 Tab. 10.

    Args:
        preset: The network: {presets}.
        task: What is asked: {tasks}.
        block: What the network is made of: {blocks}.
        backbone: What six blocks stand on, as in v2 Tab. 9: {backbones}. None: the network sees the pixels itself.
        backbone_weights: File with the backbone's pretrained weights, for a new run that inherits no other.
        head: What answers, one that knows the task: {heads}.
        language: The word encoder.
        heads: The keys of each head.
        groups: Filter groups of each of the five stages.
        kernel_size: Kernel size of every block.
        packing: Packing size of each of the five stages.
        conditions: Width of the condition (v2 Eq. 3) of each of the five stages, a multiple of the affinity's heads.
        generator: Filters from image and words (affinity), or from words alone.
        filter_dropout: Dropout on the filters (0.1; tiny 0).
        affinity_dropout: Dropout on the affinities between pixels and words (0.1).
    """

    preset: str = "s"
    task: str = "rec"
    block: str = "laconv"
    backbone: str | None = None
    backbone_weights: str | None = None
    head: str | None = None
    language: LanguageConfig = field(default_factory=LanguageConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    groups: FIVE | None = None
    kernel_size: int | None = None
    packing: FIVE | None = None
    conditions: FIVE | None = None
    generator: Literal["affinity", "words"] = "affinity"
    filter_dropout: float | None = None
    affinity_dropout: float | None = None

    def net(self) -> NetConfig:
        """The visual network with what is given here put in place of the preset's. Raises ConfigError."""
        if self.preset not in PRESETS:
            raise ConfigError(f"model.preset: expected one of {' '.join(PRESETS)}, got {self.preset!r}")
        net = replace(PRESETS[self.preset], generator=self.generator, block=self.block)
        if self.kernel_size is not None:
            net = replace(net, kernels=tuple((self.kernel_size,) * depth for depth in net.depths))
        if self.language.hidden is not None:
            net = replace(net, words=self.language.hidden)
        overrides = {name: value for name in _OF_NET if (value := getattr(self, name)) is not None}
        net = check(replace(net, **overrides))
        for name in getattr(BLOCKS[self.block], "ignores", ()):
            if getattr(self, name) != getattr(ModelConfig, name):
                raise ConfigError(f"model.{name}: means nothing to block {self.block}; leave it out")
        return net

    def check(self) -> None:
        """Raises ConfigError, naming the key, for names and sizes that no model can be built from."""
        self.net()
        self.head_name()
        if self.backbone is not None and self.backbone not in BACKBONES:
            raise ConfigError(f"model.backbone: expected one of {' '.join(BACKBONES)}, got {self.backbone!r}")
        if self.backbone is None and self.backbone_weights is not None:
            raise ConfigError(
                f"model.backbone_weights: {self.backbone_weights}: there is no backbone to put them in; give "
                f"model.backbone, one of {' '.join(BACKBONES)}"
            )

    def head_name(self) -> str:
        """The head in use: the one given, else the preset's, else the task's first. Raises ConfigError."""
        known = heads_of(self.task)
        if not known:
            raise ConfigError(f"model.task: expected one of {' '.join(TASKS)}, got {self.task!r}")
        if self.head is None:
            preferred = self.net().box_head
            return preferred if preferred in known else known[0]
        if self.head not in known:
            raise ConfigError(f"model.head: expected one of {' '.join(known)} for task {self.task}, got {self.head!r}")
        return self.head


assert ModelConfig.__doc__
# What there is to choose from stands in the registries; the help names it.
ModelConfig.__doc__ = ModelConfig.__doc__.format(
    presets=", ".join(PRESETS),
    tasks=", ".join(TASKS),
    blocks=", ".join(BLOCKS),
    heads=", ".join(HEADS),
    backbones=", ".join(BACKBONES),
)


class Model(nn.Module):
    """images (B, 3, S, S) in [0, 1], tokens (B, L) int64, PAD 0 -> the head's output.

    The output is that of the head, see `pipeline.model.heads`. The state dict has the prefixes `language.`, `visual.`
    and `head.`; the first two do not depend on the task.
    """

    def __init__(self, config: ModelConfig, language: LanguageEncoder, visual: LaConvNet | PlugIn, head: Head) -> None:
        super().__init__()
        self.config = config
        self.language, self.visual, self.head = language, visual, head

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        words, mask = self.language(tokens)
        output: Tensor = self.head(self.visual(images, words, mask)[-3:], words, mask)
        return output


def build_model(config: ModelConfig, vocabulary_size: int, answers: int = 0, vectors: Tensor | None = None) -> Model:
    """The model of a configuration, freshly initialised from torch's random state.

    `vectors` (vocabulary_size, word_dim) are the frozen word vectors; without them the word vectors are learned.
    `answers` is the number of answers to choose from, where the task is to choose. Raises ConfigError naming the key
    that does not fit.
    """
    config.check()
    net = config.net()
    language = _language(config.language, net, vocabulary_size, vectors)
    visual = LaConvNet(net) if config.backbone is None else PlugIn(BACKBONES[config.backbone](), net)
    name = config.head_name()
    head = HEADS[name](getattr(config.heads, name), Features(visual.widths, net.words, answers))
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
    check_dropout(config.dropout, "model.language.dropout")
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
        net.word_pool,
    )
