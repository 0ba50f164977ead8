"""The head for question answering and entailment: attentive pooling of image and words, then an MLP (v2 Sec. 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model.draws import Dropout, check_dropout
from laconvnet.pipeline.model.heads.base import Features, Head
from laconvnet.pipeline.model.layers import AttentivePool


@dataclass(frozen=True)
class AnswerHeadConfig:
    """One of a set of answers (the papers' head for questions and entailment).

    Args:
        pooled: Width of the pooled vectors; None is twice that of the word features (1024 in the paper).
        stride: Pixels of the input to a cell of the map that is pooled; the paper's last map has 32.
        dropout: Dropout inside the head.
    """

    pooled: int | None = None
    stride: Literal[8, 16, 32] = 32
    dropout: float = 0.1


class AnswerHead(Head):
    """The last three maps, words (B, L, D), mask (B, L) -> logits (B, answers).

    The papers name an MLP but not its width. Twice the pooled width inside is our inference: it brings the totals near
    those of v2 Tab. 7 (19 M, 31 M) and Tab. 8 (25 M, 36 M).
    """

    Config = AnswerHeadConfig
    tasks: ClassVar[tuple[str, ...]] = ("vqa", "entailment")
    grows: ClassVar[tuple[str, ...]] = ("choose.weight", "choose.bias")

    def __init__(self, config: AnswerHeadConfig, features: Features) -> None:
        super().__init__()
        if config.stride not in (8, 16, 32):
            raise ConfigError(f"model.heads.answers.stride: expected 8, 16 or 32, got {config.stride}")
        check_dropout(config.dropout, "model.heads.answers.dropout")
        if features.answers < 1:
            raise ConfigError(f"answers: this task needs the number of answers of the data set, got {features.answers}")
        self.map = (8, 16, 32).index(config.stride)
        width = features.widths[self.map]
        pooled = config.pooled or 2 * features.words
        self.image = AttentivePool(width, width, pooled, config.dropout)
        self.words = AttentivePool(features.words, features.words, pooled, config.dropout)
        self.norm = nn.LayerNorm(pooled)
        self.hidden = nn.Sequential(nn.Linear(pooled, 2 * pooled), nn.ReLU(), Dropout(config.dropout))
        self.choose = nn.Linear(2 * pooled, features.answers)

    def forward(self, maps: list[Tensor], words: Tensor, mask: Tensor) -> Tensor:
        cells = maps[self.map].permute(0, 2, 3, 1).flatten(1, 2)
        everywhere = torch.ones(cells.shape[:2], dtype=torch.bool, device=cells.device)
        fused = self.norm(self.image(cells, everywhere) + self.words(words, mask))
        logits: Tensor = self.choose(self.hidden(fused))
        return logits
