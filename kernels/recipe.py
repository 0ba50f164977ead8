"""The arguments by which an operator makes its filters from a condition."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from laconvnet.kernels.backend import Backend


class Recipe(NamedTuple):
    """What follows x and cond among the arguments of operator `laconv`, in that order (shapes: `kernels.laconv`)."""

    weight: Tensor
    bias: Tensor | None
    kernel_size: int
    groups: int
    dropout_p: float
    seed: Tensor | None
    interleaved: bool

    def drop_(self, backend: Backend, filters: Tensor, first_image: int) -> None:
        """Dropout, in place, on filters (b, k*k*g, H, W) of the images from `first_image` on.

        It is linear, so it serves their gradients as well.
        """
        if self.dropout_p > 0.0:
            assert self.seed is not None
            backend.dropout_(filters, self.seed, first_image, self.dropout_p)
