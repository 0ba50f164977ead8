"""Decoded images to the network's squares, by Pillow: where there is no DALI, or where an image is no file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from laconvnet.pipeline.data.geometry import PADDING, Letterbox


def squares(images: Sequence[Image.Image], letterbox: Letterbox) -> torch.Tensor:
    """RGB images, placed as their letterbox says: (B, 3, S, S) float32 in [0, 1], padded with 127/255.

    They are what `Decoder` makes of the same files but for the rounding of its decoder and its filter.
    """
    found = []
    for index, image in enumerate(images):
        square = Image.new("RGB", (letterbox.size,) * 2, (PADDING,) * 3)
        new = (int(letterbox.new_width[index]), int(letterbox.new_height[index]))
        corner = (int(letterbox.left[index]), int(letterbox.top[index]))
        square.paste(image.resize(new, Image.Resampling.BILINEAR), corner)
        found.append(np.asarray(square))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float().div_(255)
