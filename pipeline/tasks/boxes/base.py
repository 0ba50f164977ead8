"""The interface between a head that predicts a box and the task: targets, terms of the loss, decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from laconvnet.pipeline.model import ModelConfig


class BoxCoder(ABC):
    """Built for one model. All boxes are xyxy in pixels of the square, which is as large as the head's output says."""

    def __init__(self, config: ModelConfig) -> None:
        self.stride: int = getattr(config.heads, config.head_name()).stride  # pixels to a cell of the output

    @abstractmethod
    def loss(self, output: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The terms of the loss against one box (B, 4) per example, each a scalar in fp32; their sum is minimised."""

    @abstractmethod
    def best(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The box (B, 4) of highest objectness in the head's output, and that objectness (B,) in [0, 1]."""


def of_each(boxes: Tensor, chosen: Tensor) -> Tensor:
    """Of the boxes (B, N, 4) of each example the one that is chosen, (B,) int64 -> (B, 4)."""
    return boxes.gather(1, chosen[:, None, None].expand(-1, 1, 4)).squeeze(1)


def iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """IoU (...) of boxes (..., 4) in xyxy, broadcast."""
    corner, end = torch.maximum(boxes[..., :2], truth[..., :2]), torch.minimum(boxes[..., 2:], truth[..., 2:])
    shared = (end - corner).clamp(min=0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (truth[..., 2:] - truth[..., :2]).prod(-1)
    return shared / (areas - shared).clamp(min=1e-9)
