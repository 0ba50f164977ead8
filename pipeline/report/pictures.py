"""Cards of examples as images by themselves, for whoever shows images without a page around them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image, ImageDraw

from laconvnet.pipeline.report.overlay import PREDICTED, TRUE, Colour
from laconvnet.pipeline.report.sheet import Box, Card


@dataclass(frozen=True)
class Picture:
    """An RGB image with answer (orange) and truth (blue) drawn in it, and in words what was asked and answered."""

    image: Image.Image
    caption: str


def picture(card: Card) -> Picture:
    """The card as an image: masks are drawn in it already, boxes are drawn now."""
    with Image.open(io.BytesIO(base64.b64decode(card.image.partition(",")[2]))) as opened:
        image = opened.convert("RGB")
    for box, colour in ((card.true_box, TRUE), (card.box, PREDICTED)):
        if box:
            _outline(image, box, image.width / card.width, colour)
    score = f"iou {card.iou:.2f}" if card.iou is not None else f"{card.answer} (truth: {card.truth})"
    return Picture(image, f"{card.text}: {score}, {'right' if card.right else 'wrong'}")


def _outline(image: Image.Image, box: Box, scale: float, colour: Colour) -> None:
    x, y, width, height = (scale * side for side in box)
    thick = max(1, min(image.size) // 150)
    ImageDraw.Draw(image).rectangle((x, y, max(x + width - 1, x), max(y + height - 1, y)), outline=colour, width=thick)
