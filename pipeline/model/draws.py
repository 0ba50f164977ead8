"""Dropout whose masks follow the run, not the process: the keys of a batch, and the layer that draws by them.

In training every mask is a function of (the run's seed, the step, the example's place in the global batch of that step,
the layer's name in the model), so a run draws the same on one process or many, however its batch is cut, and again
where activations are recomputed. `Draws` puts the keys of a batch into the layers; a model in training mode that
nobody gave any takes them from torch's random state. Inference draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from laconvnet import kernels
from laconvnet.pipeline.errors import ConfigError

# Of the rule by which a run draws its masks; a checkpoint tells which it was made under. Version 1 drew from torch's
# random state, seeded by (seed, step, rank).
VERSION = 2


def check_dropout(p: float, key: str) -> None:
    """Raises ConfigError, naming the key of the configuration, for a probability that dropout does not take."""
    try:
        kernels.check_probability(p, key)
    except ValueError as error:
        raise ConfigError(str(error)) from error


class Dropout(nn.Module):
    """Dropout by the rule of `kernels.dropout`: values (B, ...) -> the same shape; nothing in evaluation mode.

    ``keys`` are those of the current batch, (B,) int64, or None. A layer has one for itself: two calls on one batch
    would drop alike. Raises ValueError for a probability that the rule does not take.
    """

    keys: Tensor | None

    def __init__(self, p: float) -> None:
        super().__init__()
        kernels.check_probability(p)
        self.p = p
        self.keys = None

    def draw(self, values: Tensor) -> tuple[float, Tensor | None]:
        """The probability that is in force and the keys that go with it, for values (B, ...) of the current batch."""
        if not self.training or self.p == 0.0:
            return 0.0, None
        if self.keys is not None:
            return self.p, self.keys
        return self.p, torch.randint(2**62, values.shape[:1], device=values.device)

    def forward(self, values: Tensor) -> Tensor:
        p, keys = self.draw(values)
        return kernels.keyed_dropout(values, keys, p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Draws:
    """The layers of a model that draw, by name, and the seed of the run."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        self._seed = seed
        self._layers = {
            name: module for name, module in model.named_modules() if isinstance(module, Dropout) and module.p > 0.0
        }

    @contextmanager
    def of(self, step: int, places: Tensor, device: torch.device) -> Iterator[None]:
        """Within, forward and backward passes draw what `step` draws for the examples at `places`.

        places (B,) int64 count the examples of the global batch from 0, over all processes and micro-batches.
        """
        table = kernels.image_keys(self._seed, step, places, list(self._layers))
        table = table.to(device, non_blocking=True)  # once for all layers
        for module, keys in zip(self._layers.values(), table.unbind(), strict=True):
            module.keys = keys
        try:
            yield
        finally:
            for module in self._layers.values():
                module.keys = None
