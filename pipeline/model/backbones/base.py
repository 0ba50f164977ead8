"""What every backbone is: an ImageNet classifier without its head, under the names its pretrained files use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's images in [0, 1]


class Backbone(ABC, nn.Module):
    """images (B, 3, S, S) in [0, 1] -> three maps (B, widths[i], S / (8, 16, 32)[i], ...).

    The normalisation that pretrained weights expect is part of it; its constants are not in the state dict.
    """

    classifier: ClassVar[str]  # prefix of what a pretrained file holds for its own task
    widths: tuple[int, int, int]
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.maps((images - self.mean) / self.std)

    @abstractmethod
    def maps(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, S, S) -> the maps (B, widths[i], S / (8, 16, 32)[i], ...)."""


def initialise(module: nn.Module) -> None:
    """Draws the weights of all convolutions by He et al. 2015, fan-out: where both families start from scratch."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
