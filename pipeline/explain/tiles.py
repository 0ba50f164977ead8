"""Small images of what an explanation holds: a word's weights, to be laid over the image, and filters side by side."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
from PIL import Image

from laconvnet.pipeline.explain.explanation import Explanation, Floats
from laconvnet.pipeline.report.overlay import PREDICTED

_LEVELS = 16  # of opacity: a tile is then a few hundred bytes
_OPACITY = 0.85  # of the largest weight: the image stays visible
_SMALL, _LARGE = (33, 102, 172), (178, 24, 43)  # numbers below and above zero, which is white


def smaller(explanation: Explanation, longest: int) -> Explanation:
    """The same on its image made smaller, so that no side is longer than so many pixels."""
    image = explanation.answer.image.copy()
    image.thumbnail((longest, longest))
    letterbox = replace(explanation.letterbox, width=np.array([image.width]), height=np.array([image.height]))
    return replace(explanation, answer=replace(explanation.answer, image=image), letterbox=letterbox)


def weights(found: Floats, most: float) -> Image.Image:
    """The weights of a word (height, width) as a layer of one colour: clear at 0, nearly opaque at ``most``."""
    levels = np.clip(np.rint(found / (most or 1) * (_LEVELS - 1)), 0, _LEVELS - 1)
    layer = Image.fromarray(levels.astype(np.uint8), "P")
    layer.putpalette(PREDICTED * _LEVELS)
    layer.info["transparency"] = bytes(round(255 * _OPACITY * level / (_LEVELS - 1)) for level in range(_LEVELS))
    return layer


def filters(found: Floats, most: float) -> Image.Image:
    """Filters (g, k, k), four a row: a pixel a tap, red above zero and blue below, in full where it is ``most``."""
    groups, side, _ = found.shape
    across = min(groups, 4)
    step = side + 1
    sheet = np.full((step * math.ceil(groups / across) - 1, step * across - 1, 3), 255, np.uint8)
    shares = np.clip(found / (most or 1), -1, 1)[..., None]
    white = np.full(3, 255.0)
    coloured = np.where(shares < 0, white + (white - _SMALL) * shares, white + (_LARGE - white) * shares)
    for group, one in enumerate(coloured):
        row, column = (step * at for at in divmod(group, across))
        sheet[row : row + side, column : column + side] = np.rint(one)
    return Image.fromarray(sheet)


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=image.mode == "P")
    return stream.getvalue()
