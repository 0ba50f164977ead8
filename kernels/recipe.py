"""The arguments by which an operator makes its filters from a condition, and the condition from a packed map."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from laconvnet.kernels.backend import Backend


class PackedNorm(NamedTuple):
    """The batch norm between two ReLUs by which a packed map is the condition (`kernels.packed`), and the packing."""

    mean: Tensor  # (M,), as the next three
    var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    packing: int

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (M,): the condition is relu(scale * relu(packed) + shift)."""
        scale = self.weight * torch.rsqrt(self.var + self.eps)
        return scale, self.bias - self.mean * scale


class Recipe(NamedTuple):
    """What follows x and cond among the arguments of operator `laconv`, in that order (shapes: `kernels.laconv`)."""

    weight: Tensor
    bias: Tensor | None
    kernel_size: int
    groups: int
    dropout_p: float
    keys: Tensor | None
    interleaved: bool

    def on_its_device(self) -> Recipe:
        """The same with the keys where the weight is."""
        return self if self.keys is None else self._replace(keys=self.keys.to(self.weight.device))

    def of(self, images: slice) -> Recipe:
        """The same for these images of the batch alone."""
        return self if self.keys is None else self._replace(keys=self.keys[images])

    def drop_(self, backend: Backend, filters: Tensor, images: slice) -> None:
        """Dropout, in place, on filters (b, k*k*g, H, W) of these images of the batch.

        It is linear, so it serves their gradients as well.
        """
        if self.dropout_p > 0.0:
            assert self.keys is not None
            backend.dropout_(filters, self.keys[images], self.kernel_size, self.groups, self.dropout_p)
