"""Boxes without anchors on one grid: the targets, terms and decoding of YOLOX for one box an image (released code)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet.pipeline.distributed import sum_, world_size
from laconvnet.pipeline.tasks.boxes.base import BoxCoder, iou, of_each

_IOU_WEIGHT = 5.0
_RADIUS = 2.5  # cells from the centre of the box that count as near
_MOST = 10  # cells that may share a box


class PointBoxes(BoxCoder):
    """For the output of `PointHead`, (B, 5, h, w): x, y, log w, log h in cells, objectness.

    Shapes: B examples, N = h * w cells, row by row. Computed in float32 at least.
    """

    def loss(self, output: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """5 * (1 - IoU^2) over the positive cells and the objectness of all cells by BCE, both per positive cell.

        Output (B, 5, h, w), truth (B, 4) -> two scalars. The positive cells are those of the global batch of all
        processes, so that N processes take the step that one would; nothing here waits for the device.
        """
        boxes, objectness = self._boxes(output)
        truth = truth.to(boxes.dtype)[:, None]
        overlap = iou(boxes, truth)
        positive = self._positive(overlap.detach(), truth, *output.shape[2:]).to(boxes.dtype)
        count = positive.sum()
        count = sum_(count).clamp(min=1) / world_size()
        return {
            "iou": _IOU_WEIGHT * ((1 - overlap.square()) * positive).sum() / count,
            "objectness": F.binary_cross_entropy_with_logits(objectness, positive, reduction="sum") / count,
        }

    def best(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Output (B, 5, h, w) -> the box (B, 4) of highest objectness, and that objectness (B,) in [0, 1]."""
        boxes, objectness = self._boxes(output)
        highest, chosen = objectness.max(1)
        return of_each(boxes, chosen), highest.sigmoid()

    def _positive(self, overlap: Tensor, truth: Tensor, height: int, width: int) -> Tensor:
        """SimOTA for one box an image: the cells (B, N) that are to predict it, from overlap (B, N), truth (B, 1, 4).

        Candidates have their middle in the box or near its centre. As many of them as their ten best IoUs sum up to
        (rounded down, at least one) are taken, cheapest first: those in the box and near its centre before all others,
        then by IoU, then by number. A box off the grid has no candidates and no positive cell.
        """
        middle = (_grid(height, width, overlap) + 0.5) * self.stride
        inside = ((middle > truth[..., :2]) & (middle < truth[..., 2:])).all(-1)
        centre = (truth[..., :2] + truth[..., 2:]) / 2
        near = ((middle - centre).abs() < _RADIUS * self.stride).all(-1)
        candidate = inside | near
        overlap = overlap.masked_fill(~candidate, 0)
        cost = -3 * torch.log(overlap + 1e-8)
        # -3 log 1e-8 is 55: 100 sorts as the released 1e5 does, and leaves float32 the digits that tell IoUs apart.
        cost = (cost + 100 * ~(inside & near)).masked_fill(~candidate, torch.inf)
        most = min(_MOST, height * width)
        taken = overlap.topk(most).values.sum(1, keepdim=True).floor().clamp(min=1)
        cheapest = cost.argsort(stable=True, dim=1)[:, :most]
        chosen = torch.arange(most, device=cost.device) < taken
        return torch.zeros_like(candidate).scatter(1, cheapest, chosen) & candidate

    def _boxes(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The boxes (B, N, 4) that an output stands for, and their objectness (B, N), not squashed."""
        height, width = output.shape[2:]
        raw = output.to(torch.promote_types(output.dtype, torch.float32)).flatten(2).transpose(1, 2)
        centre = (raw[..., :2] + _grid(height, width, raw)) * self.stride
        # exp(6) cells are more than any image has; beyond it lies only overflow.
        half = raw[..., 2:4].clamp(max=6).exp() * self.stride / 2
        return torch.cat([centre - half, centre + half], -1), raw[..., 4]


def _grid(height: int, width: int, like: Tensor) -> Tensor:
    """Column and row (N, 2) of every cell."""
    rows = torch.arange(height, device=like.device, dtype=like.dtype)
    columns = torch.arange(width, device=like.device, dtype=like.dtype)
    return torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], 2).flatten(0, 1)
