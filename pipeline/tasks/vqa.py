"""Visual question answering over the answers of the training split."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from laconvnet.pipeline.data.answers import worth
from laconvnet.pipeline.data.examples import Examples, Kind
from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.tasks.base import Sums, Task


class Vqa(Task):
    """One answer is right (CLEVR), or each to the degree that people gave it (VQAv2); output (B, answers) logits."""

    kind: ClassVar[Kind] = "question"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    outputs: ClassVar[dict[str, str]] = {
        "answers": "(B, A) from 0 to 1, how likely each of the vocabulary's answers is right"
    }

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy, a scalar; for soft answers the binary one, summed over the answers, the mean of the questions.

        The papers give no loss for VQAv2. This is that of MCAN (Yu et al. 2019), from which they borrow their head (v2
        Sec. 5.2): targets are 0.3, 0.6, 0.9 and 1 for an answer of 1, 2, 3 and more of the ten people, and all zero for
        a question without any learned answer. MCAN sums over the batch too; Adam does not tell the two apart.
        """
        answers = batch.answers.to(output.device)
        if self.vocabulary.soft:
            loss = F.binary_cross_entropy_with_logits(output, answers, reduction="sum") / len(output)
        else:
            loss = F.cross_entropy(output, answers)
        return {"answer": loss}

    def decoded(self, output: Tensor) -> dict[str, Tensor]:
        """The probability of each answer, of (B, answers) logits; they sum to 1 where only one answer can be right."""
        logits = output.float()
        return {"answers": logits.sigmoid() if self.vocabulary.soft else logits.softmax(1)}

    def answer(self, output: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """The likeliest answer and its probability, from (B, answers) logits."""
        confidence, best = self.decoded(output)["answers"].max(1)
        return [
            {"answer": self.vocabulary.answers[number], "score": round(value, 4)}
            for number, value in zip(best.tolist(), confidence.tolist(), strict=True)
        ]

    def score(self, answers: list[dict[str, Any]], examples: Examples, rows: NDArray[np.int64]) -> Sums:
        """Accuracy over all questions at ``rows`` (B,) and over each family; hidden truths (test splits) do not count.

        What several people answered is scored by VQAv2's accuracy; such an answer is correct if that is 0.5 or more,
        which takes two of the ten. ``question_id`` is what an evaluation server knows a question by.
        """
        sums: Sums = {}
        questions = zip(examples.ids(rows), examples.families(rows), strict=True)
        known = zip(examples.answers(rows), examples.human_answers(rows), strict=True)
        for answer, (id, family), (truth, people) in zip(answers, questions, known, strict=True):
            answer["question_id"] = id
            if truth is None:
                continue
            value = worth(answer["answer"], truth, people)
            answer.update(truth=truth, family=family, correct=value >= 0.5)
            if people:
                answer["accuracy"] = round(value, 4)
            for name in ("accuracy", f"accuracy/{family}") if family else ("accuracy",):
                sums[name] = sums.get(name, np.zeros(2)) + np.array([value, 1.0])
        return sums
