"""Averaged weights: what evaluation and later stages use."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

Pairs = tuple[list[Tensor], list[Tensor]]


class Ema:
    """Exponential moving average of a model's floating tensors; other buffers are copied.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n steps, so that short runs are not held back by
    their initial weights; it is a function of the step and needs no state of its own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self._model = model

    @cached_property
    def _pairs(self) -> tuple[Pairs, Pairs]:
        """Ours beside the model's own, of floating tensors and of the others.

        The model's stay the same objects from the first step on, whoever holds their values; a state dict is made anew
        at every call, which takes longer than the average of a small network.
        """
        live: dict[str, Tensor] = dict(self._model.named_parameters(remove_duplicate=False))
        live |= dict(self._model.named_buffers(remove_duplicate=False))

        def of(floating: bool) -> Pairs:
            names = [name for name, mine in self.tensors.items() if mine.is_floating_point() == floating]
            return [self.tensors[name] for name in names], [live[name] for name in names]

        return of(True), of(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they stand after step ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        floats, others = self._pairs
        torch._foreach_lerp_(*floats, 1 - decay)
        if others[0]:
            torch._foreach_copy_(*others)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a saved EMA: one of the same shape for each name of the model's state."""
        assert tensors.keys() == self.tensors.keys(), "EMA of another model"
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)
