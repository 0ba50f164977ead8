"""Evaluation: every example of a split exactly once, scored as its field scores it, beside baselines."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from laconvnet.files import publish_json, publish_text
from laconvnet.kernels import backend
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.answers import normalised, worth
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.data.loader import Loader, Request
from laconvnet.pipeline.data.plan import permute
from laconvnet.pipeline.data.text import PAD, UNKNOWN
from laconvnet.pipeline.distributed import ALONE, Ranks, joined
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.explain import recorder
from laconvnet.pipeline.explain.examples import explained
from laconvnet.pipeline.inference import submission as server
from laconvnet.pipeline.inference.completeness import AT_LEAST, Completeness
from laconvnet.pipeline.inference.predictor import Predictor
from laconvnet.pipeline.inference.restore import Restored, restore
from laconvnet.pipeline.runs import checkpoints
from laconvnet.pipeline.runs.layout import ANSWERS, EXPLAINED
from laconvnet.pipeline.tasks import TASKS
from laconvnet.pipeline.tasks.base import Sums, add
from laconvnet.pipeline.training.engine import allow_tf32
from laconvnet.progress import Progress
from laconvnet.shards.format.manifest import is_there, spelled
from laconvnet.terminal import complain

CONTROLS = ("shuffled_words", "blank_pictures")
_SEED = 0
_TEXTS = 65536  # whose words are counted at a time


class Interrupted(Exception):
    """An evaluation was broken off, on all processes at the same point."""


@dataclass(frozen=True)
class _Piece:
    """The sums and answers of one batch."""

    sums: Sums
    answers: list[dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """What a run is scored on, and what is known of it before any answer."""

    config: TrainConfig
    data: Path
    examples: Examples
    completeness: Completeness

    @classmethod
    def open(cls, config: TrainConfig, data: Path, split: str) -> Subject:
        """A split of a set, for the task of a run; raises ConfigError where it is not there or lacks what it needs."""
        task = TASKS[config.model.task]
        examples = Examples.open(data, task.kind, split)
        task.check(examples)
        return cls(config, data, examples, Completeness.of(examples))

    @cached_property
    def majority(self) -> dict[str, float] | None:
        """What the commonest answers of the run's own training split reach; None where that set is gone."""
        trained_on = Path(self.config.data.folder)
        if self.examples.kind != "question" or not is_there(trained_on):
            return None
        return _majority(self.examples, Examples.open(trained_on, "question", self.config.data.split))


@dataclass(frozen=True)
class Result:
    """What an evaluation writes, its metrics alone, and the answers, one an example.

    The main process has all of it, the others do not: their part of the answers went there.
    """

    report: dict[str, Any]
    metrics: dict[str, float]
    answers: list[dict[str, Any]]


def evaluate(
    run: Path,
    data: Path,
    split: str,
    out: Path,
    controls: bool = False,
    progress: bool = True,
    at_least: float = AT_LEAST,
    last: bool = False,
    submission: Path | None = None,
    explain: bool = False,
) -> dict[str, Any] | None:
    """The metrics of a run on a split, written to ``out`` (JSON) and, one answer a line, to ``<out>.answers.jsonl``.

    The run's best checkpoint is scored, or its last one, see `restore`; a line says which. With ``controls`` the same
    model is scored again with the words of another example, and with every image blank: what it would reach without
    understanding either. A question task adds the majority answer of the run's own training split, over all questions
    and within each family, where that set is still there. Raises ConfigError for a run, folder or split that is not
    there, that lacks what the task is scored by, or that holds less than the share ``at_least`` of what was annotated.

    ``submission`` receives the answers as VQA's evaluation server takes them; raises ConfigError as `submission.check`.
    With ``explain`` the examples that the report shows are explained in ``<out>.explained.jsonl``; raises ConfigError
    for a model that cannot be, or that was trained on blank images.

    The processes that were started for it share the batches, and what is written is the same to the byte with any
    number of them. The main process writes and returns the metrics, the others return None; where one fails, all do.
    """
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; expected the name of a JSON file")
    with joined() as ranks:
        ready, subject = ranks.each(lambda: _opened(run, data, split, at_least, last, explain))
        ranks.same(f"{run}: step of its checkpoint", ready.step)
        ranks.same(f"{data}: build", subject.examples.fingerprint)
        if submission is not None:
            server.check(subject.examples, subject.completeness.annotated)
        if ranks.is_main:
            complain(ready.origin)
        found = score(ready, subject, checkpoints.run_of(run), ranks, controls, progress)
        looked_at = ranks.each(lambda: _explained(ready, subject, found, explain) if ranks.is_main else [])
        ranks.each(lambda: _write(found, out, submission, looked_at) if ranks.is_main else None)
        return found.report if ranks.is_main else None


def score(
    ready: Restored,
    subject: Subject,
    run: Path,
    ranks: Ranks = ALONE,
    controls: bool = False,
    progress: bool = False,
    goes_on: Callable[[], bool] = lambda: True,
) -> Result:
    """The result of a model on all examples of its subject.

    Before each of their batches all processes ask whether it still ``goes_on``, which must be the same on all of them;
    raises Interrupted where it does not.
    """
    examples = subject.examples
    metrics, answers = _score(ready, examples, None, progress, ranks, goes_on)
    report: dict[str, Any] = {
        "task": ready.config.model.task,
        "split": examples.split,
        "examples": len(examples.rows),
        "annotated": subject.completeness.annotated,
        "wordless": examples.empty_texts,
        **metrics,
        "run": str(run),
        "data": spelled(subject.data),
        "words": _words(ready, examples),
        **_described(ready, examples),
        "step": ready.step,
        "blank": ready.config.data.blank,
    }
    if controls:
        report["controls"] = {name: _score(ready, examples, name, progress, ranks, goes_on)[0] for name in CONTROLS}
    majority = ranks.each(lambda: subject.majority if ranks.is_main else None)
    return Result(report | ({} if majority is None else {"majority": majority}), metrics, answers)


def _words(ready: Restored, examples: Examples) -> dict[str, float]:
    """Of the words that are read the share of ``unknown`` ones, of the texts that of those longer than what is read."""
    count, length = len(examples.rows), ready.config.data.words
    read, unknown, cut = 0, 0, 0
    for first in range(0, count, _TEXTS):
        tokens = ready.vocabulary.encode(examples.texts(examples.rows[first : first + _TEXTS]), length + 1)
        cut += int((tokens[:, length] != PAD).sum())
        read += int((tokens[:, :length] != PAD).sum())
        unknown += int((tokens[:, :length] == UNKNOWN).sum())
    return {"unknown": unknown / max(read, 1), "cut": cut / max(count, 1)}


def _described(ready: Restored, examples: Examples) -> dict[str, Any]:
    """What decides with which printed result the score may be compared."""
    manifest = examples.manifest
    return {
        "source": manifest.meta["source"],
        "partition": manifest.meta.get("options", {}).get("partition"),
        "generated": manifest.generated,
        "preset": ready.config.model.preset,
    }


def _opened(run: Path, data: Path, split: str, at_least: float, last: bool, explain: bool) -> tuple[Restored, Subject]:
    ready = restore(run, last)
    if explain:
        recorder.check(ready.config.model)
        if ready.config.data.blank:
            raise ConfigError(
                f"--explain: {run} was trained on blank images (data.blank); there is nothing to see in them"
            )
    engine = ready.config.engine  # computed as training does, which validates by the same code
    allow_tf32(engine.tf32)
    backend.choose("plain" if engine.kernels == "plain" else "auto")
    subject = Subject.open(ready.config, data, split)
    subject.completeness.check(data, subject.examples, at_least)
    return ready, subject


def _explained(ready: Restored, subject: Subject, found: Result, explain: bool) -> list[dict[str, Any]]:
    return explained(Predictor(ready, "dali", batch=1), subject.examples.manifest, found.answers) if explain else []


def _write(found: Result, out: Path, submission: Path | None, explained: list[dict[str, Any]]) -> None:
    if submission is not None:
        server.write(found.answers, submission)
    out.parent.mkdir(parents=True, exist_ok=True)
    publish_json(out, found.report)
    lines = (json.dumps(answer) + "\n" for answer in found.answers)
    publish_text(out.with_suffix(ANSWERS), "".join(lines))
    beside = out.with_suffix(EXPLAINED)
    if explained:
        publish_text(beside, "".join(json.dumps(row) + "\n" for row in explained))
    else:
        beside.unlink(missing_ok=True)  # of an evaluation before


def _score(
    ready: Restored,
    examples: Examples,
    control: str | None,
    progress: bool,
    ranks: Ranks = ALONE,
    goes_on: Callable[[], bool] = lambda: True,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics and answers; on the main process, the others have done their part of the batches.

    Batches are as large as those of one process, which computes the same numbers of them in any company, and sums are
    added in their order.
    """
    count, batch = len(examples.rows), ready.config.data.batch
    cuts = [slice(first, first + batch) for first in range(0, count, batch)]
    total: Sums = {}
    answers: list[dict[str, Any]] = []
    name = f"eval {control or examples.split}"
    with (
        closing(_pieces(ready, examples, control, cuts[ranks.rank :: ranks.world])) as pieces,
        Progress(total=count, desc=name, unit="example", disable=not (progress and ranks.is_main)) as bar,
    ):
        for _ in range(0, len(cuts), ranks.world):
            if not goes_on():
                raise Interrupted
            for piece in ranks.gather(ranks.each(lambda: next(pieces, None))):
                if piece:
                    add(total, piece.sums)
                    answers += piece.answers
                    bar.update(len(piece.answers))
    return {metric: float(pair[0] / pair[1]) for metric, pair in sorted(total.items())}, answers


@torch.inference_mode()
def _pieces(ready: Restored, examples: Examples, control: str | None, cuts: list[slice]) -> Generator[_Piece]:
    """The pieces of these parts of the split, in order."""
    config = replace(ready.config.data, blank=ready.config.data.blank or control == "blank_pictures")
    rows = examples.rows
    spoken = _others(rows) if control == "shuffled_words" else rows
    with (
        closing(Loader(examples, ready.vocabulary, config, config.batch, ready.device)) as loader,
        closing(loader.stream(Request(rows[cut], spoken[cut]) for cut in cuts)) as batches,
    ):
        for batch in batches:
            output = ready.model(batch.images, batch.tokens).float()
            answers = ready.task.answer(output, batch)
            sums = ready.task.score(answers, examples, batch.rows)
            samples, texts = examples.samples(batch.rows).tolist(), examples.texts(batch.rows)
            entries = zip(batch.rows.tolist(), samples, texts, answers, strict=True)
            yield _Piece(
                sums,
                [{"example": row, "sample": sample, "text": text, **answer} for row, sample, text, answer in entries],
            )


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
    questions, learned = _answered(examples), _answered(training)
    if not questions or not learned:
        return {}
    overall = Counter(answer for answer, _, _ in learned).most_common(1)[0][0]
    counted: dict[str | None, Counter[str]] = defaultdict(Counter)
    for answer, family, _ in learned:
        counted[family][answer] += 1
    by_family = {family: counter.most_common(1)[0][0] for family, counter in counted.items()}
    known = [(by_family[family], answer, people) for answer, family, people in questions if family in by_family]
    return {
        "accuracy": sum(worth(overall, answer, people) for answer, _, people in questions) / len(questions),
        "accuracy_by_family": sum(worth(*one) for one in known) / len(questions),
    }


def _answered(examples: Examples) -> list[tuple[str, str | None, list[str]]]:
    """Answer, family and all people's answers of every question whose answer is known."""
    rows = examples.rows
    columns = zip(examples.answers(rows), examples.families(rows), examples.human_answers(rows), strict=True)
    return [
        (normalised(answer) if people else answer, family, people)
        for answer, family, people in columns
        if answer is not None
    ]
