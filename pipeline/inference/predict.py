"""Many texts about many images, asked of one run or several."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from laconvnet.pipeline.data.loader import Batch
from laconvnet.pipeline.data.prefetch import prefetch
from laconvnet.pipeline.data.workers import Workers
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference import answer_file
from laconvnet.pipeline.inference.asks import Ask
from laconvnet.pipeline.inference.pictures import upright
from laconvnet.pipeline.inference.predictor import Predictor
from laconvnet.progress import Progress
from laconvnet.terminal import complain

_PATIENCE = 300.0  # seconds that a batch of images may take to be read
_TOLD = 10  # unknown words

Models = dict[str, Predictor]
Fields = dict[str, Any]


def to_file(models: Models, asks: Sequence[Ask], out: Path, batch: int, threads: int) -> int:
    """The answers of `several` as JSON lines in ``out``; a second start goes on where the first one stopped.

    Returns how many of the asked have no answer. Raises ConfigError as `answer_file.opened`.
    """
    asked = ([_facts(ask, name, model) for name, model in models.items()] for ask in asks)
    with answer_file.opened(out, asked) as (stream, done):
        if done:
            complain(f"{out}: {done} of {len(asks)} are answered; going on behind them")
        tally = Tally()
        with (
            Progress(total=len(asks), initial=done, desc="predict", unit="text") as bar,
            closing(several(models, asks[done:], batch, threads)) as found,
        ):
            for lines in found:
                stream.writelines(json.dumps(line) + "\n" for line in lines)
                stream.flush()
                tally.add(lines)
                bar.update(len(lines) // len(models))
    tally.tell()
    return tally.faults


class Tally:
    """What is told of many answers in the end."""

    def __init__(self) -> None:
        self.faults = 0
        self._first, self._unknown = "", Counter[str]()

    def add(self, lines: list[Fields]) -> None:
        """Count these lines of `several`."""
        for line in lines:
            self._unknown.update(line.get("unknown", ()))
            if "error" in line:
                self.faults += 1
                self._first = self._first or f"row {line['row']}: {line['error']}"

    def tell(self) -> None:
        """Say what was not answered, and which words were not known."""
        if self.faults:
            complain(f"{self.faults} without an answer, the first of them {self._first}")
        if self._unknown:
            more = len(self._unknown) - _TOLD
            words = ", ".join(word for word, _ in self._unknown.most_common(_TOLD))
            complain(f"words that were not known: {words}" + (f" and {more} others" if more > 0 else ""))


def several(models: Models, asks: Sequence[Ask], batch: int, threads: int) -> Generator[list[Fields]]:
    """The answers in the order of what is asked, of each model by its name; batch by batch, images read ahead.

    An answer is what `eval` writes of an example, with `Ask.facts`, the ``run``, its ``step`` and the ``unknown``
    words; where there is none, ``error`` says why.
    """
    workers = Workers(threads, "images")
    reading: Sequence[Ask] = ()

    def ready(part: Sequence[Ask]) -> list[_Part]:
        nonlocal reading
        reading = part
        return _parts(models, part, workers)

    cuts = (asks[first : first + batch] for first in range(0, len(asks), batch))
    try:
        with closing(prefetch(ready, cuts, _PATIENCE, lambda: f"reading {reading[0].image}")) as batches:
            for parts in batches:
                yield [line for lines in zip(*(part.lines() for part in parts), strict=True) for line in lines]
    finally:
        workers.close(_PATIENCE)


@dataclass(frozen=True)
class _Part:
    """A batch of what is asked of a model: for each why it cannot be asked, or None; and the batch of the others."""

    name: str
    model: Predictor
    asks: Sequence[Ask]
    faults: list[str | None]
    batch: Batch | None

    def lines(self) -> Iterator[Fields]:
        """The model's answers, one each of the asked."""
        found = iter(self.model.answers(self.batch) if self.batch else ())
        for ask, fault in zip(self.asks, self.faults, strict=True):
            facts = _facts(ask, self.name, self.model)
            if fault is not None:
                yield {**facts, "error": fault}
            else:
                yield {**facts, **next(found), "unknown": list(self.model.words(ask.text).unknown)}


def _parts(models: Models, asks: Sequence[Ask], workers: Workers) -> list[_Part]:
    files = list(dict.fromkeys(ask.image for ask in asks if ask.fault is None))
    images = dict(zip(files, workers.map(_image, files), strict=True))
    parts = []
    for name, model in models.items():
        faults = [ask.fault or _fault(images[ask.image]) or model.refuses(ask.text) for ask in asks]
        asked = [ask for ask, fault in zip(asks, faults, strict=True) if fault is None]
        shown = [image for ask in asked if isinstance(image := images[ask.image], Image.Image)]
        batch = model.prepare(shown, [ask.text for ask in asked]) if asked else None
        parts.append(_Part(name, model, asks, faults, batch))
    return parts


def _fault(image: Image.Image | str) -> str | None:
    return image if isinstance(image, str) else None


def _image(file: Path) -> Image.Image | str:
    """The image of a file, or why there is none."""
    try:
        return upright(file)
    except ConfigError as error:
        return str(error)


def _facts(ask: Ask, name: str, model: Predictor) -> Fields:
    return {**ask.facts(), "run": name, "step": model.step}
