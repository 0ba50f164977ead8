"""The rule of dropout's masks in numpy, written from its words (`kernels.dropout`)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

LOW = 0xFFFFFFFF


def philox(counter: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike], key: int) -> NDArray[np.uint8]:
    """The 16 bytes of each counter (four words, of shapes that go together) under a 64-bit key, in order of memory."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in np.broadcast_arrays(*counter))
    low, half = np.uint64(LOW), np.uint64(32)
    for round_ in range(7):
        key0 = np.uint64(((key & LOW) + round_ * 0x9E3779B9) & LOW)
        key1 = np.uint64(((key >> 32 & LOW) + round_ * 0xBB67AE85) & LOW)
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = second >> half ^ c1 ^ key0, second & low, first >> half ^ c3 ^ key1, first & low
    return np.stack([c0, c1, c2, c3], -1).astype("<u4").view(np.uint8)


def of_filters(key: int, height: int, width: int, kernel_size: int, groups: int, p: float) -> Tensor:
    """What each value of an image's filters is multiplied by, (k*k*g, H, W) float64."""
    dy, dx = (axis.reshape(-1) for axis in np.mgrid[:kernel_size, :kernel_size])
    block, place = np.zeros_like(dy), dy * kernel_size + dx
    if kernel_size >= 5:
        block, place = dx // 2 + (kernel_size + 1) // 2 * (dy // 8), 2 * (dy % 8) + dx % 2
    blocks, group, pixel = np.ogrid[: block.max() + 1, :groups, : height * width]
    drawn = philox((pixel, group, blocks, 0), key)  # (blocks, groups, H*W, 16)
    return _factors(drawn[block, :, :, place], p).reshape(-1, height, width)


def of_elements(key: int, elements: int, p: float) -> Tensor:
    """What each value of an image's part of any other tensor is multiplied by, (elements,) float64."""
    number = np.arange((elements + 15) // 16)
    return _factors(philox((number & LOW, number >> 32, 0, 1), key).reshape(-1)[:elements], p)


def _factors(bytes_: NDArray[np.uint8], p: float) -> Tensor:
    least = round(256 * p)
    return torch.from_numpy(np.where(bytes_ >= least, 256 / (256 - least), 0.0))
