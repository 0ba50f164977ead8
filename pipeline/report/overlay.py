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
    return Image.composite(Image.new("RGB", image.size, colour), image, _opacity(mask, image.size, filled))


def layer(mask: NDArray[np.uint8], size: tuple[int, int], colour: Colour) -> Image.Image:
    """What `overlay` lays over an image of this size (width, height) for the mask (height, width), as an RGBA image."""
    found = Image.new("RGB", size, colour)
    found.putalpha(_opacity(mask, size, filled=True))
    return found


def _opacity(mask: NDArray[np.uint8], size: tuple[int, int], filled: bool) -> Image.Image:
    shape = Image.fromarray(mask * np.uint8(255)).resize(size, Image.Resampling.NEAREST)
    width = max(1, min(size) // 150)
    outline = ImageChops.subtract(shape, shape.filter(ImageFilter.MinFilter(2 * width + 1)))
    tint = shape.point([round(value * _OPACITY) for value in range(256)]) if filled else Image.new("L", size)
    return ImageChops.lighter(tint, outline)
