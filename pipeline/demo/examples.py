"""The images of a split that the page offers, by their number, each with what its data set says about it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference.pictures import of_bytes
from laconvnet.pipeline.tasks import TASKS

_TEXTS = 5  # of an image, at most


class ExamplePictures:
    """The images of ``examples``, in the order of the set."""

    def __init__(self, examples: Examples) -> None:
        self._examples, self._columns = examples, examples.manifest.example_columns
        samples = self._columns.numbers("sample", examples.rows)
        self._rows = examples.rows[np.argsort(samples, kind="stable")]
        self._samples, starts = np.unique(np.sort(samples), return_index=True)
        self._ends = np.append(starts, len(samples))
        self.name, self.split = examples.manifest.folder.resolve().name, examples.split

    def __len__(self) -> int:
        return len(self._samples)

    def image(self, number: int) -> Image.Image:
        """The upright RGB image of this number; raises InputError where its bytes are damaged."""
        manifest, sample = self._examples.manifest, int(self._samples[number])
        return of_bytes(manifest.read_image(sample), str(manifest.sample(sample, "key")))

    def texts(self, number: int) -> list[str]:
        """Expressions, or questions, of the set about this image: the first few, each once."""
        rows = self._rows[self._ends[number] : self._ends[number + 1]]
        return list(dict.fromkeys(self._columns.values("text", rows)))[:_TEXTS]


def offered(config: TrainConfig, data: Path | None, split: str | None) -> ExamplePictures:
    """The images of a split of a set: of ``data``, else of the set that this configuration was trained on.

    Without a named ``split`` it is the one that the run is validated by, else that of its training. Raises ConfigError
    or InputError where there is no such set or split.
    """
    folder, kind = data or Path(config.data.folder), TASKS[config.model.task].kind
    if split is None:
        with suppress(ConfigError):  # not every set has a split to validate by
            return ExamplePictures(Examples.open(folder, kind, config.validate.split))
    return ExamplePictures(Examples.open(folder, kind, split or config.data.split))
