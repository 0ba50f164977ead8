"""Referring expression segmentation: the pixels of the referent (v2 Sec. 5.2, Tab. 4)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from laconvnet.pipeline.data.examples import Examples, Kind
from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.data.masks import decode, encode
from laconvnet.pipeline.tasks.base import Sums, Task

Pixels = NDArray[np.float64]

_PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)


class Res(Task):
    """A mask; output (B, S, S) logits on the square."""

    kind: ClassVar[Kind] = "expression"
    metrics: ClassVar[tuple[str, ...]] = ("miou", "oiou", *(f"pr@{least}" for least in _PRECISIONS))
    wants_masks: ClassVar[bool] = True
    outputs: ClassVar[dict[str, str]] = {
        "masks": "(B, S, S) a logit for every pixel of the square, above 0 where it is the referent's"
    }

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Binary cross entropy, a scalar: the mean over the pixels of the square (released code: padding included).

        Output (B, S, S) logits.
        """
        assert batch.masks is not None, "the loader gives masks to the tasks that want them"
        return {"mask": F.binary_cross_entropy_with_logits(output, batch.masks.to(output))}

    def decoded(self, output: Tensor) -> dict[str, Tensor]:
        """The logits (B, S, S) themselves: a mask is cut where they cross zero on the image, not on the square."""
        return {"masks": output}

    def answer(self, output: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Masks in pixels of the original image, as COCO run lengths; the score is their pixels' mean probability.

        Output (B, S, S) logits.
        """
        answers = []
        for index, logits in enumerate(output):
            found = on_image(logits, batch.letterbox, index)
            mask = self.decide(found > 0)
            sure = float(torch.from_numpy(found[mask]).sigmoid().mean()) if mask.any() else 0.0
            answers.append({"mask": encode(mask), "score": round(sure, 4)})
        return answers

    def decide(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The answer (height, width) for the pixels of probability above 0.5: those pixels."""
        return mask

    def score(self, answers: list[dict[str, Any]], examples: Examples, rows: NDArray[np.int64]) -> Sums:
        """miou (mean IoU of the samples), oiou (all intersections over all unions) and the shares of IoUs, pr@0.5 on.

        Of the answers at ``rows`` (B,), on masks of the original image. LAVT-type papers print oiou, the authors'
        code miou. pr@0.5 counts an IoU of exactly 0.5, as the code of LAVT and of ReLA does; acc@0.5 of boxes does not.
        """
        shared, covered, _ = self.overlap(answers, examples, rows)
        overlap = shared / np.maximum(covered, 1)
        count = len(rows)
        sums = {"miou": np.array([overlap.sum(), count])} | cumulative("oiou", shared, covered)
        return sums | {f"pr@{least}": np.array([(overlap >= least).sum(), count]) for least in _PRECISIONS}

    def overlap(self, answers: list[dict[str, Any]], examples: Examples, rows: NDArray[np.int64]) -> Pixels:
        """Pixels (3, B) of intersection, union and answer at ``rows`` (B,); writes truth and IoU to ``answers``.

        The IoU is 0 where both are empty. Raises ConfigError for a region without a mask.
        """
        pixels = np.zeros((3, len(rows)))
        for number, (answer, truth) in enumerate(zip(answers, examples.masks(rows), strict=True)):
            predicted, true = decode(answer["mask"], *truth.shape) > 0, truth > 0
            shared, covered = (predicted & true).sum(), (predicted | true).sum()
            pixels[:, number] = shared, covered, predicted.sum()
            answer.update(truth=encode(true), iou=round(float(shared / max(covered, 1)), 4))
        return pixels


def cumulative(name: str, shared: Pixels, covered: Pixels) -> Sums:
    """Sum of intersections and sum of unions, both given as (B,); nothing where there is no pixel to count."""
    return {name: np.array([shared.sum(), covered.sum()])} if covered.any() else {}


def on_image(logits: Tensor, letterbox: Letterbox, index: int) -> NDArray[np.float32]:
    """The logits (S, S) of image ``index`` at its own size (height, width): its part of the square, no padding.

    Bilinear, and on logits: the outline is where they cross zero, probability 0.5, and not bound to the square's grid.
    """
    sides = (int(letterbox.height[index]), int(letterbox.width[index]))
    part = logits[letterbox.inside(index)].float()[None, None]
    return F.interpolate(part, size=sides, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
