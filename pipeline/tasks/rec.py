"""Referring expression comprehension: the box of the referent (v2 Sec. 5.2)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.examples import Examples, Kind
from pipeline.data.loader import Batch
from pipeline.tasks.base import Sums, Task

_IGNORED_ABOVE = 0.5


class Rec(Task):
    """YOLOv3's terms on the paper's anchor grid; the answer is the box of highest objectness.

    Shapes: B examples, A anchors, h x w cells; the output is (B, A, 5, h, w): tx, ty, tw, th, objectness.
    Boxes inside are xyxy in pixels of the square.
    """

    kind: ClassVar[Kind] = "expression"

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sums over the grid, means over the batch: xy by BCE weighted by 2 - w h, wh by half smooth L1, objectness."""
        count, _, _, height, width = output.shape
        anchors = self._anchors(output)
        stride = self.size / height
        truth = batch.boxes.to(output.device)
        centre, sides = (truth[:, :2] + truth[:, 2:]) / 2, truth[:, 2:] - truth[:, :2]
        cell = (centre / stride).floor().long()
        column, row = cell[:, 0].clamp(0, width - 1), cell[:, 1].clamp(0, height - 1)
        anchor = _shape_iou(sides, anchors).argmax(1)
        number = torch.arange(count, device=output.device)
        own = output[number, anchor, :, row, column]

        offset = centre / stride - torch.stack([column, row], 1)
        scale = torch.log(sides.clamp(min=1) / anchors[anchor])
        weight = 2 - (sides / self.size).prod(1, keepdim=True)
        xy = weight * F.binary_cross_entropy_with_logits(own[:, :2], offset.clamp(0, 1), reduction="none")
        wh = weight * 0.5 * F.smooth_l1_loss(own[:, 2:4], scale, reduction="none")

        positive = torch.zeros_like(output[:, :, 4])
        positive[number, anchor, row, column] = 1
        with torch.no_grad():
            overlap = _iou(self._boxes(output), truth[:, None, None, None, :])
            # A box that already fits is no negative example, whichever cell it stands in.
            counted = (positive > 0) | (overlap < _IGNORED_ABOVE)
        objectness = F.binary_cross_entropy_with_logits(output[:, :, 4], positive, reduction="none") * counted
        return {"xy": xy.sum() / count, "wh": wh.sum() / count, "objectness": objectness.sum() / count}

    def answer(self, output: Tensor, batch: Batch) -> list[dict[str, Any]]:
        best = output[:, :, 4].flatten(1).argmax(1)
        boxes = self._boxes(output).flatten(1, 3)[torch.arange(len(output)), best]
        score = output[:, :, 4].flatten(1).amax(1).sigmoid()
        restored = batch.letterbox.restore(boxes.float().cpu().numpy())
        return [
            {"box": [round(float(value), 4) for value in box], "score": round(float(value), 4)}
            for box, value in zip(restored, score, strict=True)
        ]

    def score(self, answers: list[dict[str, Any]], examples: Examples, rows: NDArray[np.int64]) -> Sums:
        """acc@0.5 and the mean IoU, on boxes of the original picture."""
        truth = examples.boxes(rows).astype(np.float64)
        overlap = iou_xywh(np.array([answer["box"] for answer in answers], np.float64), truth)
        for answer, box, value in zip(answers, truth, overlap, strict=True):
            answer.update(truth=[round(float(side), 2) for side in box], iou=round(float(value), 4))
        count = len(rows)
        return {"acc@0.5": np.array([(overlap >= 0.5).sum(), count]), "miou": np.array([overlap.sum(), count])}

    def _anchors(self, like: Tensor) -> Tensor:
        return torch.tensor(self.config.rec.anchors, dtype=like.dtype, device=like.device)

    def _boxes(self, output: Tensor) -> Tensor:
        """The boxes (B, A, h, w, 4) that an output stands for."""
        height, width = output.shape[-2:]
        stride = self.size / height
        rows = torch.arange(height, device=output.device).view(-1, 1)
        columns = torch.arange(width, device=output.device).view(1, -1)
        x = (output[:, :, 0].sigmoid() + columns) * stride
        y = (output[:, :, 1].sigmoid() + rows) * stride
        anchors = self._anchors(output).view(1, -1, 2, 1, 1)
        # exp(6) times an anchor is larger than any picture; beyond it lies only overflow.
        w = output[:, :, 2].clamp(max=6).exp() * anchors[:, :, 0]
        h = output[:, :, 3].clamp(max=6).exp() * anchors[:, :, 1]
        return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)


def iou_xywh(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union, pair by pair, of boxes (N, 4) in xywh."""
    corner = np.maximum(first[:, :2], second[:, :2])
    end = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    shared = np.clip(end - corner, 0, None).prod(1)
    return shared / np.maximum(first[:, 2:].prod(1) + second[:, 2:].prod(1) - shared, 1e-9)


def _shape_iou(sides: Tensor, anchors: Tensor) -> Tensor:
    """IoU (B, A) of boxes (B, 2) and anchors (A, 2) laid corner on corner."""
    shared = torch.minimum(sides[:, None], anchors[None]).prod(-1)
    return shared / (sides.prod(-1)[:, None] + anchors.prod(-1)[None] - shared)


def _iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """IoU of boxes (..., 4) in xyxy, broadcast."""
    corner, end = torch.maximum(boxes[..., :2], truth[..., :2]), torch.minimum(boxes[..., 2:], truth[..., 2:])
    shared = (end - corner).clamp(min=0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (truth[..., 2:] - truth[..., :2]).prod(-1)
    return shared / (areas - shared).clamp(min=1e-9)
