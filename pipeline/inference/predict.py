"""One image, one sentence: the answer, a drawing of it, and what the network made of the words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.explain import sheet
from laconvnet.pipeline.explain.filters import places, spread
from laconvnet.pipeline.inference.answer import Answer
from laconvnet.pipeline.inference.pictures import upright
from laconvnet.pipeline.inference.predictor import Predictor
from laconvnet.pipeline.inference.restore import restore
from laconvnet.terminal import complain


def predict(
    run: Path, image: Path, text: str, out: Path | None = None, last: bool = False, explain: Path | None = None
) -> dict[str, Any]:
    """The answer of a run on an image file; ``out`` receives the image with the answer drawn on it.

    ``explain`` receives the sheet that `explained` writes. The checkpoint is the one that `restore` takes; a line says
    which, another one which words are not known to it.

    Raises ConfigError for an image that cannot be read, a text without words, an ``out`` that cannot be written, and
    what `explained` does not take.
    """
    if explain:
        sheet.check(explain, "--explain")
    model, loaded = _opened(run, image, last)
    (found,) = model.raw([loaded], [text])
    if unknown := model.unknown(text):
        complain(f"not known to this run: {', '.join(unknown)}")
    if out:
        try:
            Answer.of(loaded, text, found, unknown).draw().save(out)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--out: {out}: cannot be written ({error}); expected a name such as a.png") from error
    if explain:
        _explained(model, loaded, text, (), explain)
    return {"image": str(image), "text": text, **found}


def explained(
    run: Path, image: Path, text: str, at: Sequence[str] = (), out: Path | None = None, last: bool = False
) -> dict[str, Any]:
    """The answer of a run on an image file with the words that it reads, and the spread of its filters by stage.

    ``out`` receives the sheet, HTML or PNG by its name, with the filters of the pixels ``at``, "X,Y" each (default:
    `places`). Raises ConfigError as `predict`, for such a pixel outside of the image, and for a model that cannot be
    explained.
    """
    if out:
        sheet.check(out, "--out")
    model, loaded = _opened(run, image, last)
    (found,) = model.raw([loaded], [text])
    return {"image": str(image), "text": text, **found, **_explained(model, loaded, text, at, out)}


def _opened(run: Path, image: Path, last: bool) -> tuple[Predictor, Image.Image]:
    try:
        loaded = upright(image)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from error
    ready = restore(run, last)
    complain(ready.origin)
    return Predictor(ready, "dali", batch=1), loaded


def _explained(model: Predictor, image: Image.Image, text: str, at: Sequence[str], out: Path | None) -> dict[str, Any]:
    explanation = model.explain(image, text)
    looked_at = places(explanation.answer, at)
    if out:
        sheet.write(explanation, looked_at, model.origin, out)
    spreads = {str(stage): round(value, 6) for stage, value in spread(explanation).items()}
    return {"words": list(explanation.words), "unknown": list(explanation.answer.unknown), "spread": spreads}
