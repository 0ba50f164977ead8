"""What a model answers, in pixels of the image as it was given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from laconvnet.pipeline.data.masks import decode
from laconvnet.pipeline.data.text import Words
from laconvnet.pipeline.report.overlay import PREDICTED, overlay

_WIDTH, _HEIGHT = 320, 4096  # pixels: of a drawing at least, of an enlarged image at most


class Box(NamedTuple):
    """Left, top, right and bottom of a box, in pixels."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Answer:
    """The answer to one text about one image.

    By its task a model gives a ``box``, a ``mask`` (H, W) of bool or an ``answer`` in words; the others are None.
    ``confidence`` goes from 0 to 1: how likely the box holds what is meant, the answer is right, or (the mean over the
    mask) its pixels are the referent's. ``unknown`` are words of the text that the model has not learned, ``unread``
    those behind the last one that it reads.
    """

    text: str
    box: Box | None
    mask: NDArray[np.bool_] | None
    answer: str | None
    confidence: float
    unknown: tuple[str, ...]
    unread: tuple[str, ...]
    image: Image.Image = field(repr=False, compare=False)

    @classmethod
    def of(cls, image: Image.Image, text: str, found: dict[str, Any], words: Words) -> Answer:
        """Of what a task has answered about this image."""
        box, mask = None, None
        if "box" in found:
            x, y, width, height = found["box"]
            box = Box(x, y, x + width, y + height)
        if "mask" in found:
            mask = decode(found["mask"], image.height, image.width).astype(bool)
        return cls(text, box, mask, found.get("answer"), found["score"], words.unknown, words.unread, image)

    def draw(self) -> Image.Image:
        """The image on a sheet at least 320 pixels wide, with the text below it and the box, the mask or the answer.

        A narrower image is enlarged as far as its height allows.
        """
        scale = max(1, min(-(-_WIDTH // self.image.width), _HEIGHT // self.image.height))
        width, height = self.image.width * scale, self.image.height * scale
        shown, words = self.image.resize((width, height), Image.Resampling.LANCZOS), self.answer
        if self.mask is not None:
            shown = overlay(shown, self.mask.astype(np.uint8), PREDICTED)
            words = None if self.mask.any() else "nothing"
        sheet = Image.new("RGB", (max(width, _WIDTH), height + 34), "white")
        sheet.paste(shown)
        pen = ImageDraw.Draw(sheet)
        if self.box:
            pen.rectangle([side * scale for side in self.box], outline=PREDICTED, width=max(2, width // 200))
        pen.text((6, height + 10), self.text if words is None else f"{self.text}  ->  {words}", fill="black")
        return sheet
