"""Generalised segmentation (gRefCOCO): the pixels of all that an expression speaks of, which may be nothing."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.tasks.base import Sums
from laconvnet.pipeline.tasks.res import Res, cumulative

# Fewer positive pixels of the original image mean "nothing of the kind is here" (Liu et al. 2023, Sec. 5: how models
# without a classifier of their own say so).
FEWEST_PIXELS = 50


class Grec(Res):
    """A mask that may be empty; output (B, S, S) logits on the square. The truth of a group is the union of masks."""

    metrics: ClassVar[tuple[str, ...]] = ("giou", "ciou", "n_acc", "t_acc")
    without_target: ClassVar[bool] = True

    def decide(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The answer (height, width) for the pixels of probability above 0.5: none of them where they are too few."""
        return mask if mask.sum() >= FEWEST_PIXELS else np.zeros_like(mask)

    def score(self, answers: list[dict[str, Any]], examples: Examples, rows: NDArray[np.int64]) -> Sums:
        """giou, ciou, n_acc and t_acc by the evaluation of the data set's authors (henghuiding/ReLA).

        giou is the mean IoU of the samples, where a sample without a target counts 1 if the answer is empty and 0 if
        not. ciou is all intersections over all unions; such a sample adds its wrongly claimed pixels to the unions.
        n_acc is the share of samples without a target that are answered so, t_acc that of the others that are not (as
        their paper defines them; their code adds 1 to the counts, and divides t_acc by other ones). ``rows``: (B,).
        """
        absent = np.isnan(examples.boxes(rows)[:, 0])
        shared, covered, claimed = self.overlap(answers, examples, rows)
        empty = claimed == 0
        overlap = np.where(absent, empty, shared / np.maximum(covered, 1))
        for answer, value in zip(answers, overlap, strict=True):
            answer["iou"] = round(float(value), 4)
        sums = {"giou": np.array([overlap.sum(), len(rows)])} | cumulative("ciou", shared, covered)
        for name, of, right in (("n_acc", absent, empty), ("t_acc", ~absent, ~empty)):
            if of.any():
                sums[name] = np.array([(of & right).sum(), of.sum()], np.float64)
        return sums
