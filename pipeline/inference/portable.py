"""A trained model as other programs run it: from images and words to what its task reads off the head's output."""

from __future__ import annotations

from torch import Tensor, nn

from laconvnet.pipeline.model import Model
from laconvnet.pipeline.tasks import Task


class Portable(nn.Module):
    """images (B, 3, S, S) in [0, 1], tokens (B, L) int64 -> tensors (B, ...) by the names of `Task.outputs`."""

    def __init__(self, model: Model, task: Task) -> None:
        super().__init__()
        # Nobody trains it: a reader that forgets to say so keeps no activations.
        self.model, self.task = model.requires_grad_(False), task

    def forward(self, images: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        return self.task.decoded(self.model(images, tokens))
