"""Referring expression comprehension: the box of the referent (v2 Sec. 5.2)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from laconvnet.pipeline.data.examples import Examples, Kind
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.model import ModelConfig
from laconvnet.pipeline.tasks.base import Sums, Task
from laconvnet.pipeline.tasks.boxes import CODERS

# A referent is found by an IoU "larger than 0.5" (v1 Sec. 4.1, v2 Sec. 5.1), `box_iou > 0.5` in the authors' code.
FOUND_ABOVE = 0.5


class Rec(Task):
    """One box; targets, loss and decoding are those of the head in use."""

    kind: ClassVar[Kind] = "expression"
    metrics: ClassVar[tuple[str, ...]] = ("acc@0.5", "miou")
    outputs: ClassVar[dict[str, str]] = {
        "boxes": "(B, 4) left, top, right and bottom of the referent, in pixels of the square",
        "scores": "(B,) from 0 to 1, how likely the box holds it",
    }

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.coder = CODERS[config.head_name()](config)

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms of the head's coder, each a scalar; output (B, A, 5, h, w) or (B, 5, h, w), that of the head."""
        return self.coder.loss(output, batch.boxes.to(output.device))

    def decoded(self, output: Tensor) -> dict[str, Tensor]:
        """The box of highest objectness, and that; output (B, A, 5, h, w) or (B, 5, h, w)."""
        return dict(zip(self.outputs, self.coder.best(output), strict=True))

    def answer(self, output: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Box, xywh in pixels of the original image, and objectness; output (B, A, 5, h, w) or (B, 5, h, w)."""
        boxes, score = self.decoded(output).values()
        restored = batch.letterbox.restore(boxes.float().cpu().numpy())
        return [
            {"box": [round(float(value), 4) for value in box], "score": round(float(value), 4)}
            for box, value in zip(restored, score, strict=True)
        ]

    def score(self, answers: list[dict[str, Any]], examples: Examples, rows: NDArray[np.int64]) -> Sums:
        """acc@0.5 and the mean IoU of the answers at ``rows`` (B,), on boxes of the original image.

        A referent is found by an IoU above 0.5; one of exactly 0.5 is missed.
        """
        truth = examples.boxes(rows).astype(np.float64)
        overlap = iou_xywh(np.array([answer["box"] for answer in answers], np.float64), truth)
        found = overlap > FOUND_ABOVE
        for answer, box, value, right in zip(answers, truth, overlap, found.tolist(), strict=True):
            answer.update(truth=[round(float(side), 2) for side in box], iou=round(float(value), 4), correct=right)
        count = len(rows)
        return {"acc@0.5": np.array([found.sum(), count]), "miou": np.array([overlap.sum(), count])}


def iou_xywh(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union (N,), pair by pair, of boxes (N, 4) in xywh."""
    corner = np.maximum(first[:, :2], second[:, :2])
    end = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    shared = np.clip(end - corner, 0, None).prod(1)
    areas = first[:, 2:].prod(1) + second[:, 2:].prod(1)
    overlap: NDArray[np.float64] = shared / np.maximum(areas - shared, 1e-9)
    return overlap
