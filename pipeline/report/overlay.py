"""Masks laid over images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

Colour = tuple[int, int, int]

PREDICTED: Colour = (255, 64, 0)
TRUE: Colour = (0, 160, 255)
_OPACITY = 0.4


def overlay(image: Image.Image, mask: NDArray[np.uint8], colour: Colour, filled: bool = True) -> Image.Image:
    """The RGB image with the mask (height, width), of any size, outlined inside its border and tinted if ``filled``.

    The image stays visible under the tint.
    """
    shape = Image.fromarray(mask * np.uint8(255)).resize(image.size, Image.Resampling.NEAREST)
    width = max(1, min(image.size) // 150)
    outline = ImageChops.subtract(shape, shape.filter(ImageFilter.MinFilter(2 * width + 1)))
    alpha = shape.point([round(value * _OPACITY) for value in range(256)]) if filled else Image.new("L", shape.size)
    return Image.composite(Image.new("RGB", image.size, colour), image, ImageChops.lighter(alpha, outline))
