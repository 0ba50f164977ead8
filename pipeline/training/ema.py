"""Averaged weights: what evaluation and later stages use."""

from __future__ import annotations

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

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights as they stand after step ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                averages.append(self.tensors[name])
                values.append(tensor)
            else:
                self.tensors[name].copy_(tensor)
        torch._foreach_lerp_(averages, values, 1 - decay)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from saved averages; their names must be those of the model."""
        assert tensors.keys() == self.tensors.keys(), "averages of another model"
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)
