"""One image, one text: the answer, a drawing of it, and what the network made of the words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from laconvnet.pipeline.data.text import Words
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.explain import sheet
from laconvnet.pipeline.explain.filters import places, spread
from laconvnet.pipeline.inference.answer import Answer
from laconvnet.pipeline.inference.pictures import upright
from laconvnet.pipeline.inference.predictor import Predictor
from laconvnet.terminal import complain


def answered(
    model: Predictor, image: Path, text: str, out: Path | None = None, explain: Path | None = None
) -> dict[str, Any]:
    """The answer of a model about an image file; ``out`` receives the image with the answer drawn on it.

    ``explain`` receives the sheet that `explained` writes. Words that the model does not know or does not read are
    told. Raises ConfigError for an image that cannot be read, a text without words, an ``out`` that cannot be written,
    and what `explained` does not take.
    """
    if explain:
        sheet.check(explain, "--explain")
    if out:
        _check_drawing(out)
    shown = _opened(image)
    (found,) = model.raw([shown], [text])
    words = model.words(text)
    _tell(words)
    if out:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            Answer.of(shown, text, found, words).draw().save(out)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--out: {out}: cannot be written ({error}); choose another place") from error
    if explain:
        _explained(model, shown, text, (), explain)
    return {"image": str(image), "text": text, **found}


def explained(
    model: Predictor, image: Path, text: str, at: Sequence[str] = (), out: Path | None = None
) -> dict[str, Any]:
    """The answer of a model about an image file with the words that it reads, and the spread of its filters by stage.

    ``out`` receives the sheet, HTML or PNG by its name, with the filters of the pixels ``at``, "X,Y" each (default:
    `places`). Raises ConfigError as `answered`, for such a pixel outside of the image, and for a model that cannot be
    explained.
    """
    if out:
        sheet.check(out, "--out")
    shown = _opened(image)
    (found,) = model.raw([shown], [text])
    _tell(model.words(text))
    return {"image": str(image), "text": text, **found, **_explained(model, shown, text, at, out)}


def _tell(words: Words) -> None:
    if words.unknown:
        complain(f"not known to this run: {', '.join(words.unknown)}")
    if words.unread:
        complain(f"not read, beyond the {len(words.read)} words of this run: {' '.join(words.unread)}")


def _check_drawing(out: Path) -> None:
    Image.init()
    if Image.EXTENSION.get(out.suffix.lower()) not in Image.SAVE:
        raise ConfigError(f"--out: {out}: not a format that can be drawn; expected a name such as a.png")


def _opened(image: Path) -> Image.Image:
    try:
        return upright(image)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from error


def _explained(model: Predictor, image: Image.Image, text: str, at: Sequence[str], out: Path | None) -> dict[str, Any]:
    explanation = model.explain(image, text)
    looked_at = places(explanation.answer, at)
    if out:
        sheet.write(explanation, looked_at, model.origin, out)
    spreads = {str(stage): round(value, 6) for stage, value in spread(explanation).items()}
    return {"words": list(explanation.words), "unknown": list(explanation.answer.unknown), "spread": spreads}
