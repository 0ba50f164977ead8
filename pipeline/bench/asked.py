"""A split answered: by `predict` from image files and a list, beside `eval` of the set that they are from."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from laconvnet.kernels.bench import Row, Step, compare
from laconvnet.pipeline.bench.rows import surroundings
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference import evaluate, predict
from laconvnet.pipeline.inference.asks import Ask
from laconvnet.pipeline.inference.predictor import ENGINES, Predictor
from laconvnet.pipeline.inference.restore import restore

BASELINE = "eval"


def rows(run: Path, data: Path, split: str, threads: int, rounds: int) -> list[Row]:
    """The rows of `eval` (the baseline) and of `predict` by each engine that scales images, in ms a split.

    All have the run's best model, its batch, and images in memory of the system: the first round is not counted. Of
    `predict` it is what a list costs, from files that were opened to lines in a file. Raises ConfigError for a run or a
    split that is not there.
    """
    ready = restore(run)
    subject = evaluate.Subject.open(ready.config, data, split)
    batch, count = ready.config.data.batch, len(subject.examples.rows)
    if not count:
        raise ConfigError(f"--split {split}: {data} holds no example of it; expected at least one")
    with tempfile.TemporaryDirectory() as place:
        asks = _files(subject.examples, Path(place))

        def by(model: Predictor) -> Step:
            def predicted(_: object) -> None:
                out = Path(place, "answers.jsonl")
                out.unlink(missing_ok=True)
                predict.to_file({str(run): model}, asks, out, batch, threads)

            return predicted

        def scored(_: object) -> None:
            evaluate.score(ready, subject, run)

        made: dict[str, dict[str, Step]] = {BASELINE: {"split": scored}}
        made |= {f"predict, {engine}": {"split": by(Predictor(ready, engine, batch))} for engine in ENGINES}
        found = compare(made, BASELINE, torch.device("cpu"), rounds)
    facts = {"bench": "predict", "threads": threads, "batch": batch, "texts": count, **surroundings(ready.device)}
    return [{**row, "texts_per_s": 1e3 * count / row["median"] if row["median"] else None, **facts} for row in found]


def _files(examples: Examples, folder: Path) -> list[Ask]:
    """What a split asks, about its images as files of this folder."""
    asked = []
    samples = examples.samples(examples.rows).tolist()
    for row, (sample, text) in enumerate(zip(samples, examples.texts(examples.rows), strict=True), 1):
        file = folder / f"{sample}.jpg"
        if not file.exists():
            file.write_bytes(examples.manifest.read_image(sample))
        asked.append(Ask(row, file, text))
    return asked
