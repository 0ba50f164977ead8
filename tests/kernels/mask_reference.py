"""The rule of dropout's masks in numpy, written from its words (`kernels.dropout`), value by value."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def philox(counter: tuple[int, int, int, int], key: int) -> NDArray[np.uint8]:
    """The 16 bytes of a counter (four words) under a 64-bit key, in order of memory."""
    c0, c1, c2, c3 = counter
    for round_ in range(7):
        key0 = ((key & 0xFFFFFFFF) + round_ * 0x9E3779B9) & 0xFFFFFFFF
        key1 = ((key >> 32 & 0xFFFFFFFF) + round_ * 0xBB67AE85) & 0xFFFFFFFF
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            second >> 32 ^ c1 ^ key0,
            second & 0xFFFFFFFF,
            first >> 32 ^ c3 ^ key1,
            first & 0xFFFFFFFF,
        )
    return np.array([c0, c1, c2, c3], "<u4").view(np.uint8)


def of_filters(key: int, height: int, width: int, kernel_size: int, groups: int, p: float) -> Tensor:
    """What each value of an image's filters is multiplied by, (k*k*g, H, W) float64."""
    bytes_ = np.empty((kernel_size, kernel_size, groups, height, width), np.uint8)
    for group, y, x in np.ndindex(groups, height, width):
        made: dict[int, NDArray[np.uint8]] = {}
        for dy, dx in np.ndindex(kernel_size, kernel_size):
            block, place = 0, dy * kernel_size + dx
            if kernel_size >= 5:
                block, place = dx // 2 + (kernel_size + 1) // 2 * (dy // 8), 2 * (dy % 8) + dx % 2
            if block not in made:
                made[block] = philox((y * width + x, group, block, 0), key)
            bytes_[dy, dx, group, y, x] = made[block][place]
    return _factors(bytes_, p).view(-1, height, width)


def of_elements(key: int, elements: int, p: float) -> Tensor:
    """What each value of an image's part of any other tensor is multiplied by, (elements,) float64."""
    counters = [philox((n & 0xFFFFFFFF, n >> 32, 0, 1), key) for n in range((elements + 15) // 16)]
    return _factors(np.concatenate(counters)[:elements], p)


def _factors(bytes_: NDArray[np.uint8], p: float) -> Tensor:
    least = round(256 * p)
    return torch.from_numpy(np.where(bytes_ >= least, 256 / (256 - least), 0.0))
