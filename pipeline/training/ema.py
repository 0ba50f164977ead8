"""Averaged weights: what evaluation and later stages use."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn


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
    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Ours and the model's own, which stay the same objects from the first step on, whoever holds their values.

        A state dict is made anew at every call, which takes longer than the average of a small network.
        """
        live: dict[str, Tensor] = dict(self._model.named_parameters(remove_duplicate=False))
        live |= dict(self._model.named_buffers(remove_duplicate=False))
        return [(mine, live[name]) for name, mine in self.tensors.items()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they stand after step ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        floats = [pair for pair in self._pairs if pair[0].is_floating_point()]
        others = [pair for pair in self._pairs if not pair[0].is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floats], [now for _, now in floats], 1 - decay)
        if others:
            torch._foreach_copy_([mine for mine, _ in others], [now for _, now in others])

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from saved averages; their names must be those of the model."""
        assert tensors.keys() == self.tensors.keys(), "averages of another model"
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)
