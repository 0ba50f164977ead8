"""Evaluation: every example of a split exactly once, scored as its field scores it, beside what knows less."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.data.examples import Examples
from pipeline.data.loader import Loader
from pipeline.data.plan import permute
from pipeline.files import publish_text
from pipeline.restore import Restored, restore
from pipeline.tasks.base import Sums, add
from shards.manifest import MANIFEST

CONTROLS = ("shuffled_words", "blank_pictures")
_SEED = 0


def evaluate(
    run: Path, data: Path, split: str, out: Path, controls: bool = False, progress: bool = True
) -> dict[str, Any]:
    """The metrics of a run on a split, written to ``out`` (JSON) and, one answer a line, to ``<out>.answers.jsonl``.

    With ``controls`` the same model is scored again with the words of another example, and with every picture blank:
    what it would reach without understanding either. A question task adds the majority answer of the run's own
    training split, over all questions and within each family, where that set is still there. Raises ConfigError for a
    run, folder or split that is not there, or that lacks what the task is scored by.
    """
    ready = restore(run)
    examples = Examples.open(data, ready.task.kind, split)
    ready.task.check(examples)
    metrics, answers = _score(ready, examples, None, progress)
    report: dict[str, Any] = {
        "task": ready.config.model.task,
        "split": split,
        "examples": len(examples.rows),
        "wordless": examples.wordless,
        **metrics,
        "run": str(run),
        "data": str(data),
        "step": ready.step,
        "blank": ready.config.data.blank,
    }
    if controls:
        report["controls"] = {control: _score(ready, examples, control, progress)[0] for control in CONTROLS}
    trained_on = Path(ready.config.data.folder)
    if ready.task.kind == "question" and (trained_on / MANIFEST).is_file():
        report["majority"] = _majority(examples, Examples.open(trained_on, "question", ready.config.data.split))
    publish_text(out, json.dumps(report, indent=1) + "\n")
    publish_text(out.with_suffix(".answers.jsonl"), "".join(json.dumps(answer) + "\n" for answer in answers))
    return report


@torch.inference_mode()
def _score(
    ready: Restored, examples: Examples, control: str | None, progress: bool
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    config = ready.config.data
    if control == "blank_pictures":
        config = dataclasses.replace(config, blank=True)
    rows = examples.rows
    spoken = _others(rows) if control == "shuffled_words" else rows
    cuts = [slice(first, first + config.batch) for first in range(0, len(rows), config.batch)]
    total: Sums = {}
    answers: list[dict[str, Any]] = []
    with (
        closing(Loader(examples, ready.vocabulary, config, config.batch, ready.device)) as loader,
        closing(loader.stream((rows[cut], spoken[cut]) for cut in cuts)) as batches,
        tqdm(total=len(rows), desc=f"eval {control or examples.split}", unit="example", disable=not progress) as bar,
    ):
        for batch in batches:
            output = ready.model(batch.images, batch.tokens).float()
            given = ready.task.answer(output, batch)
            add(total, ready.task.score(given, examples, batch.rows))
            samples, texts = examples.samples(batch.rows).tolist(), examples.texts(batch.rows)
            for row, sample, text, answer in zip(batch.rows.tolist(), samples, texts, given, strict=True):
                answers.append({"example": row, "sample": sample, "text": text, **answer})
            bar.update(len(given))
    return {name: float(pair[0] / pair[1]) for name, pair in sorted(total.items())}, answers


def _others(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each example another one: the next along one random cycle through all, so none keeps its own words."""
    cycle = permute(np.arange(len(rows), dtype=np.int64), len(rows), _SEED)
    other = np.empty_like(rows)
    other[cycle] = rows[np.roll(cycle, 1)]
    return other


def _majority(examples: Examples, training: Examples) -> dict[str, float]:
    """Accuracy of the training split's commonest answer, one for all questions and one for each family.

    Empty where either split hides its answers.
    """
    asked, learned = _answered(examples), _answered(training)
    if not asked or not learned:
        return {}
    overall = Counter(answer for answer, _ in learned).most_common(1)[0][0]
    counted: dict[str | None, Counter[str]] = defaultdict(Counter)
    for answer, family in learned:
        counted[family][answer] += 1
    by_family = {family: counter.most_common(1)[0][0] for family, counter in counted.items()}
    return {
        "accuracy": sum(answer == overall for answer, _ in asked) / len(asked),
        "accuracy_by_family": sum(answer == by_family.get(family) for answer, family in asked) / len(asked),
    }


def _answered(examples: Examples) -> list[tuple[str, str | None]]:
    """Answer and family of every question whose answer is known."""
    pairs = zip(examples.answers(examples.rows), examples.families(examples.rows), strict=True)
    return [(answer, family) for answer, family in pairs if answer is not None]
