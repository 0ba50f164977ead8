"""The head for question answering and entailment: attentive pooling of picture and words, then an MLP (v2 Sec. 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.model.layers import masked_softmax


@dataclass(frozen=True)
class VqaHeadConfig:
    """The head for questions.

    Args:
        pooled: Width of the pooled vectors; None is twice that of the word features (1024 in the paper).
        stride: Pixels of the input to a cell of the map that is pooled; the paper's last map has 32.
        dropout: Dropout inside the head.
    """

    pooled: int | None = None
    stride: Literal[8, 16, 32] = 32
    dropout: float = 0.1


class AttentivePool(nn.Module):
    """A learned weighted mean: items (B, N, width), mask (B, N) -> (B, outputs); weights by a two-layer MLP."""

    def __init__(self, width: int, hidden: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 1))
        self.merge = nn.Linear(width, outputs)

    def weights(self, items: Tensor, mask: Tensor) -> Tensor:
        """(B, N) float32, sums to 1 over the real items."""
        return masked_softmax(self.score(items).squeeze(-1), mask, dim=1)

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        weights = self.weights(items, mask)
        return self.merge((weights.to(items.dtype)[:, None, :] @ items).squeeze(1))


class VqaHead(nn.Module):
    """The five stage maps, words (B, L, D), mask (B, L) -> logits (B, answers).

    The papers name an MLP but not its width. Twice the pooled width inside is our inference: it brings the totals near
    those of v2 Tab. 7 (19 M, 31 M) and Tab. 8 (25 M, 36 M).
    """

    def __init__(self, config: VqaHeadConfig, dims: tuple[int, ...], words: int, pooled: int, answers: int) -> None:
        super().__init__()
        self.stage = {8: 2, 16: 3, 32: 4}[config.stride]
        width = dims[self.stage]
        self.picture = AttentivePool(width, width, pooled, config.dropout)
        self.words = AttentivePool(words, words, pooled, config.dropout)
        self.norm = nn.LayerNorm(pooled)
        self.answer = nn.Sequential(
            nn.Linear(pooled, 2 * pooled), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(2 * pooled, answers)
        )

    def forward(self, maps: list[Tensor], words: Tensor, mask: Tensor) -> Tensor:
        cells = maps[self.stage].permute(0, 2, 3, 1).flatten(1, 2)
        everywhere = torch.ones(cells.shape[:2], dtype=torch.bool, device=cells.device)
        return self.answer(self.norm(self.picture(cells, everywhere) + self.words(words, mask)))
