"""Boxes by anchors on one grid: YOLOv3's targets, terms and decoding (v2 Sec. 5.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.pipeline.model import ModelConfig
from laconvnet.pipeline.tasks.boxes.base import BoxCoder, iou, of_each

_IGNORED_ABOVE = 0.5
# Where smooth L1 turns from a parabola into a line: 1 / sigma^2 of MCN's, sigma = 3.
_BETA = 1 / 9


class AnchorBoxes(BoxCoder):
    """For the output of `AnchorHead`, (B, A, 5, h, w): tx, ty, tw, th, objectness.

    Shapes: B examples, A anchors, h x w cells.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.sizes: tuple[tuple[int, int], ...] = config.heads.anchors.sizes

    def loss(self, output: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Sums over the grid, means over the batch: xy by BCE, wh by half smooth L1, both times 2 - w h; objectness.

        Output (B, A, 5, h, w), truth (B, 4) -> three scalars. v2 Sec. 5.2 borrows its head from MCN; so do these terms
        (luogen1996/MCN, model/mcn_model.py: YOLOv3's, with smooth L1 of sigma 3 for the sides). SimREC, the authors'
        later code, has half the squared difference there.
        """
        count, _, _, height, width = output.shape
        anchors = self._anchors(output)
        centre, sides = (truth[:, :2] + truth[:, 2:]) / 2, truth[:, 2:] - truth[:, :2]
        cell = (centre / self.stride).floor().long()
        column, row = cell[:, 0].clamp(0, width - 1), cell[:, 1].clamp(0, height - 1)
        anchor = _shape_iou(sides, anchors).argmax(1)
        number = torch.arange(count, device=output.device)
        own = output[number, anchor, :, row, column]

        offset = centre / self.stride - torch.stack([column, row], 1)
        scale = torch.log(sides.clamp(min=1) / anchors[anchor])
        weight = 2 - (sides / (self.stride * height)).prod(1, keepdim=True)
        xy = weight * F.binary_cross_entropy_with_logits(own[:, :2], offset.clamp(0, 1), reduction="none")
        wh = weight * 0.5 * F.smooth_l1_loss(own[:, 2:4], scale, reduction="none", beta=_BETA)

        positive = torch.zeros_like(output[:, :, 4])
        positive[number, anchor, row, column] = 1
        with torch.no_grad():
            overlap = iou(self._boxes(output), truth[:, None, None, None, :])
            # A box that already fits is no negative example, whichever cell it stands in.
            counted = (positive > 0) | (overlap < _IGNORED_ABOVE)
        objectness = F.binary_cross_entropy_with_logits(output[:, :, 4], positive, reduction="none") * counted
        return {"xy": xy.sum() / count, "wh": wh.sum() / count, "objectness": objectness.sum() / count}

    def best(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Output (B, A, 5, h, w) -> the box (B, 4) of highest objectness, and that objectness (B,) in [0, 1]."""
        highest, chosen = output[:, :, 4].flatten(1).max(1)
        return of_each(self._boxes(output).flatten(1, 3), chosen), highest.sigmoid()

    def _anchors(self, like: Tensor) -> Tensor:
        return torch.tensor(self.sizes, dtype=like.dtype, device=like.device)

    def _boxes(self, output: Tensor) -> Tensor:
        """The boxes (B, A, h, w, 4) that an output stands for."""
        height, width = output.shape[-2:]
        rows = torch.arange(height, device=output.device).view(-1, 1)
        columns = torch.arange(width, device=output.device).view(1, -1)
        x = (output[:, :, 0].sigmoid() + columns) * self.stride
        y = (output[:, :, 1].sigmoid() + rows) * self.stride
        anchors = self._anchors(output).view(1, -1, 2, 1, 1)
        # exp(6) times an anchor is larger than any image; beyond it lies only overflow.
        w = output[:, :, 2].clamp(max=6).exp() * anchors[:, :, 0]
        h = output[:, :, 3].clamp(max=6).exp() * anchors[:, :, 1]
        return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)


def _shape_iou(sides: Tensor, anchors: Tensor) -> Tensor:
    """IoU (B, A) of boxes (B, 2) and anchors (A, 2) laid corner on corner."""
    shared = torch.minimum(sides[:, None], anchors[None]).prod(-1)
    return shared / (sides.prod(-1)[:, None] + anchors.prod(-1)[None] - shared)
