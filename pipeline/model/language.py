"""The word encoder: word vectors -> one recurrent layer -> self-attention (v1 Sec. 3, v2 Sec. 5.2).

Shape legend: B batch, L words, D width of the word features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from laconvnet.kernels.attention import masked_softmax
from laconvnet.pipeline.model.draws import Dropout
from laconvnet.pipeline.model.layers import AttentivePool
from laconvnet.pipeline.model.precision import KeepFloat32, no_autocast

PAD = 0


@dataclass(frozen=True)
class LanguageConfig:
    """The word encoder. None takes the value that goes with the preset.

    Args:
        word_dim: Width of the word vectors; 300 in the paper (GloVe).
        hidden: Width of the word features; 512 in the paper.
        layers: Self-attention layers: 1 in v2, 3 in v1.
        rnn: The paper's LSTM, or the released code's GRU.
        heads: Heads of the self-attention.
        ffn: Inner width of the feed-forward layer (4 x hidden).
        dropout: Dropout of the self-attention.
    """

    word_dim: int | None = None
    hidden: int | None = None
    layers: int | None = None
    rnn: Literal["lstm", "gru"] | None = None
    heads: int = 8
    ffn: int | None = None
    dropout: float = 0.1


class LSTM(KeepFloat32, nn.LSTM):
    """In float32: CPUs without bfloat16 instructions have no bfloat16 recurrence, and it is a sliver of the work."""


class GRU(KeepFloat32, nn.GRU):
    """In float32, as `LSTM`."""


class SelfAttention(nn.Module):
    """One post-norm transformer layer over the real words: (B, L, D), (B, L) -> (B, L, D)."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.query, self.key, self.value, self.merge = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn), nn.ReLU(), Dropout(dropout), nn.Linear(ffn, width))
        self.ffn_norm = nn.LayerNorm(width)
        self.weights_dropout, self.attended_dropout, self.ffn_dropout = (Dropout(dropout) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)

        query, key, value = split(self.query(x) * self.scale), split(self.key(x)), split(self.value(x))
        weights = self.weights_dropout(masked_softmax(query @ key.transpose(2, 3), mask[:, None, None, :], dim=-1))
        attended = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.attended_dropout(self.merge(attended)))
        out: Tensor = self.ffn_norm(x + self.ffn_dropout(self.ffn(x)))
        return out


class LanguageEncoder(nn.Module):
    """tokens (B, L) int64, PAD 0 -> words (B, L, D), mask (B, L), True = a real word.

    `vectors` (V, word_dim) are frozen: a parameter without gradient, that an optimizer given only trainable parameters
    never sees. Without them the word vectors are learned. Rows of PAD alone give finite words and an empty mask.
    With `pool` the encoder holds the released code's attentive pool of the words. No head reads it, there as here, so
    it is frozen and never computed: it is the place of the authors' tensors and part of their count.
    """

    def __init__(
        self,
        vocabulary_size: int,
        word_dim: int,
        hidden: int,
        layers: int,
        rnn: Literal["lstm", "gru"],
        heads: int,
        ffn: int,
        dropout: float,
        vectors: Tensor | None = None,
        pool: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, word_dim)
        if vectors is not None:
            self.embedding.weight = nn.Parameter(vectors.detach().clone().float(), requires_grad=False)
        self.rnn: nn.RNNBase = (LSTM if rnn == "lstm" else GRU)(word_dim, hidden, batch_first=True)
        self.attention = nn.ModuleList(SelfAttention(hidden, heads, ffn, dropout) for _ in range(layers))
        if pool:
            self.pool = AttentivePool(hidden, hidden // 2, hidden).requires_grad_(False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        mask = tokens != PAD
        # PAD stands at the end, and the recurrence runs forward: it cannot reach the real words.
        vectors = self.embedding(tokens)
        with no_autocast(tokens.device):
            words, _ = self.rnn(vectors.to(self.rnn.weight_ih_l0.dtype))
        words = words.to(vectors.dtype)
        for layer in self.attention:
            words = layer(words, mask)
        return words, mask
