"""What every block is built from: its place in the network, and the MLP that ends it.

A block is a module built from a `BlockConfig`: (B, d, H, W), words (B, L, D), mask (B, L) -> (B, d, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from laconvnet import kernels
from laconvnet.kernels.mlp import compiled, takes
from laconvnet.pipeline.model.joint_mlp import JointMLP
from laconvnet.pipeline.model.layers import norm_act
from laconvnet.pipeline.model.norm import BatchNorm


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
    """y + BN(act(BN(y Wa)) Wb), four times as wide inside (v2 Eq. 5-6): (B, d, H, W) -> (B, d, H, W)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.activation, self.output_activation = config.activation, config.output_activation
        self.expand = nn.Conv2d(config.dim, 4 * config.dim, 1, bias=False)
        self.expand_norm = BatchNorm(4 * config.dim)
        self.reduce = nn.Conv2d(4 * config.dim, config.dim, 1, bias=False)
        self.reduce_norm = BatchNorm(config.dim)

    def forward(self, y: Tensor) -> Tensor:
        if self._keeps_no_hidden(y):
            return self._joint(y.to(kernels.dtype_taken(y)))
        return self.narrowed(norm_act(self.expand_norm, self.expand(y), self.activation), y)

    def narrowed(self, hidden: Tensor, y: Tensor) -> Tensor:
        """The second half, y + BN(hidden Wb): hidden (B, 4d, H, W), y (B, d, H, W) -> (B, d, H, W)."""
        out = self.reduce(hidden)
        if self.output_activation:
            return norm_act(self.reduce_norm, out, self.activation, y)
        narrow: Tensor = self.reduce_norm(out, y)
        return narrow

    def _keeps_no_hidden(self, y: Tensor) -> bool:
        """Whether kernels do all of it that never write the hidden map."""
        dtype = kernels.dtype_taken(y)
        fits = self.activation == "relu" and not self.output_activation and takes(dtype, y.shape[1])
        norms = (self.expand_norm, self.reduce_norm)
        return fits and all(norm.by_passes_on_gpu(y) for norm in norms) and compiled(y.device, dtype)

    def _joint(self, y: Tensor) -> Tensor:
        inner, outer = self.expand_norm, self.reduce_norm
        norms = (each for norm in (inner, outer) for each in (norm.weight, norm.bias, norm.eps))
        found = JointMLP.apply(y, self.expand.weight, self.reduce.weight, *norms)  # type: ignore[no-untyped-call]
        out: Tensor = found[0]
        inner.learn(*found[1:4])
        outer.learn(*found[4:])
        return out
