"""What every block is built from: its place in the network, and the MLP that ends it.

A block is a module built from a `BlockConfig`: (B, d, H, W), words (B, L, D), mask (B, L) -> (B, d, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from pipeline.model.layers import activate
from pipeline.model.norm import BatchNorm


@dataclass(frozen=True)
class BlockConfig:
    dim: int  # d
    condition: int  # c
    groups: int  # g
    packing: int  # s
    kernel_size: int  # k
    words: int  # D
    heads: int = 8
    generator: Literal["affinity", "words"] = "affinity"  # "words": filters from the words alone (v2 Tab. 10)
    activation: Literal["relu", "silu"] = "relu"
    output_activation: bool = False  # the released code activates once more after the MLP residual
    interleaved: bool = False  # channel -> group by modulo, as in the released code
    affinity_dropout: float = 0.1
    filter_dropout: float = 0.1


class MLP(nn.Module):
    """BN(act(BN(x Wa)) Wb), four times as wide inside (v2 Eq. 6)."""

    def __init__(self, dim: int, activation: Literal["relu", "silu"]) -> None:
        super().__init__()
        self.activation = activation
        self.expand = nn.Conv2d(dim, 4 * dim, 1, bias=False)
        self.expand_norm = BatchNorm(4 * dim)
        self.reduce = nn.Conv2d(4 * dim, dim, 1, bias=False)
        self.reduce_norm = BatchNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = activate(self.expand_norm(self.expand(x)), self.activation)
        return self.reduce_norm(self.reduce(x))
