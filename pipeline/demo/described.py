"""What the page is told of an answer, as JSON has it."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from laconvnet.pipeline.demo.asked import Asked, AskedModel
from laconvnet.pipeline.explain.explanation import Explanation, Floats
from laconvnet.pipeline.report.overlay import PREDICTED, layer

_DARKEST = 0.85  # where a word does not weigh at all
_MOST_WORDS = 8  # of a vocabulary that are offered for another one


def answered(model: AskedModel, asked: Asked) -> dict[str, Any]:
    """The answer, in pixels of the image, with every word of the text: whether it is known, and read at all."""
    answer = asked.answer
    read, unread, unknown = model.model.words(answer.text)
    return {
        "box": answer.box,
        "mask": None
        if answer.mask is None
        else _uri(layer(answer.mask.astype(np.uint8), answer.image.size, PREDICTED)),
        "share": None if answer.mask is None else float(answer.mask.mean()),
        "answer": answer.answer,
        "confidence": answer.confidence,
        "words": [
            {"word": word, "known": word not in unknown, "read": place < len(read)}
            for place, word in enumerate(read + unread)
        ],
        "milliseconds": 1e3 * asked.seconds,
    }


def weighed(explanation: Explanation, word: int) -> list[dict[str, Any]]:
    """How much a word weighs where: over all stages together (None), and over each. Raises ConfigError for no word."""
    return [_weighed(explanation.over(word, stage), stage) for stage in (None, *explanation.stages)]


def _weighed(weights: Floats, stage: int | None) -> dict[str, Any]:
    return {"stage": stage, "map": _uri(_shade(weights)), "least": float(weights.min()), "most": float(weights.max())}


def _shade(weights: Floats) -> Image.Image:
    """What leaves an image as it is where the weight (height, width) is largest, and darkens it elsewhere.

    A tint, as on the small images of `laconvnet explain`, would cover the colours that the words speak of.
    """
    opacity = _DARKEST * (1 - weights / max(float(weights.max()), 1e-9))
    shade = Image.new("L", weights.shape[::-1])
    shade.putalpha(Image.fromarray((255 * opacity).astype(np.uint8)))
    return shade


def _uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def words_from(models: list[AskedModel], begin: str) -> list[str]:
    """Words that begin so and that all models know, the commonest of the first model's training set first."""
    first, *others = (model.model.vocabulary for model in models)
    fitting = (word for word in first.words if word.startswith(begin.lower()))
    shared = [word for word in fitting if not any(other.parted(word, 1).unknown for other in others)]
    return shared[:_MOST_WORDS]
