"""One image, one sentence: the answer, and a drawing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference.answer import Answer
from laconvnet.pipeline.inference.pictures import upright
from laconvnet.pipeline.inference.predictor import Predictor
from laconvnet.pipeline.inference.restore import restore
from laconvnet.terminal import complain


def predict(run: Path, image: Path, text: str, out: Path | None = None, last: bool = False) -> dict[str, Any]:
    """The answer of a run on an image file; ``out`` receives the image with the answer drawn on it.

    The checkpoint is the one that `restore` takes; a line says which, another one which words are not known to it.

    Raises ConfigError for an image that cannot be read, a text without words and an ``out`` that cannot be written.
    """
    try:
        loaded = upright(image)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from error
    ready = restore(run, last)
    complain(ready.origin)
    (found,) = Predictor(ready, "dali", batch=1).raw([loaded], [text])
    if unknown := ready.vocabulary.unknown(text):
        complain(f"not known to this run: {', '.join(unknown)}")
    if out:
        try:
            Answer.of(loaded, text, found, unknown).draw().save(out)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--out: {out}: cannot be written ({error}); expected a name such as a.png") from error
    return {"image": str(image), "text": text, **found}
