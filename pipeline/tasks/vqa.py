"""Visual question answering over the answers of the training split (CLEVR's protocol)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.examples import Examples, Kind
from pipeline.data.loader import Batch
from pipeline.tasks.base import Sums, Task


class Vqa(Task):
    """Cross entropy over the answers; output (B, answers) logits."""

    kind: ClassVar[Kind] = "question"

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"answer": F.cross_entropy(output, batch.answers.to(output.device))}

    def answer(self, output: Tensor, batch: Batch) -> list[dict[str, Any]]:
        confidence, best = output.float().softmax(1).max(1)
        return [
            {"answer": self.vocabulary.answers[number], "score": round(value, 4)}
            for number, value in zip(best.tolist(), confidence.tolist(), strict=True)
        ]

    def score(self, answers: list[dict[str, Any]], examples: Examples, rows: NDArray[np.int64]) -> Sums:
        """Accuracy over all questions and over each family of them; hidden truths (test splits) are not scored."""
        sums: Sums = {}
        for answer, truth, family in zip(answers, examples.answers(rows), examples.families(rows), strict=True):
            if truth is None:
                continue
            right = answer["answer"] == truth
            answer.update(truth=truth, family=family, correct=right)
            for name in ("accuracy", f"accuracy/{family}") if family else ("accuracy",):
                sums[name] = sums.get(name, np.zeros(2)) + np.array([right, 1.0])
        return sums
