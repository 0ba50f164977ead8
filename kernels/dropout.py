"""Dropout of filters whose mask is computed, never stored.

A value's fate is a hash of (seed, image, element): chunks of a batch see the mask of the whole, whatever their size,
and backward, activation checkpointing and a resumed run see the mask of forward. The element is the index in the
image's filters (k*k*g, H, W) in that order, whatever the memory format. `kernels/cpu/dropout.h` computes the
same mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

_HIGH_BIT = -(2**31)


def threshold(p: float) -> int:
    """A value is dropped where its 32-bit hash is below this."""
    return round(p * 2**32)


def keys(seed: Tensor, first_image: int, images: int) -> Tensor:
    """A 64-bit key an image, int64 (images,) on the device of `seed`: splitmix64 of the seed and the image."""
    index = torch.arange(first_image + 1, first_image + images + 1, device=seed.device)
    key = seed.reshape(1).to(torch.int64) + index * _signed(0x9E3779B97F4A7C15)
    key = (key ^ _shifted(key, 30)) * _signed(0xBF58476D1CE4E5B9)
    key = (key ^ _shifted(key, 27)) * _signed(0x94D049BB133111EB)
    return key ^ _shifted(key, 31)


def dropout_(filters: Tensor, seed: Tensor, first_image: int, p: float) -> None:
    """Zeroes each value of filters (B, k*k*g, H, W) with probability p and scales the others by 1 / (1 - p), in place.

    `first_image` is the index of the first image in the batch; `seed` one integer, on any device.
    """
    if not filters.numel():
        return
    key = keys(seed, first_image, filters.shape[0]).to(filters.device)
    low, high = key.to(torch.int32), (key >> 32).to(torch.int32)
    element = torch.arange(filters[0].numel(), dtype=torch.int32, device=filters.device).view(filters.shape[1:])
    # Without unsigned integers: both sides of the comparison moved down by 2**31.
    bound = threshold(p) + _HIGH_BIT
    for image in range(filters.shape[0]):  # one image's hashes at a time
        hashes = _mixed(_mixed(element ^ low[image]) ^ high[image])
        filters[image].mul_(1.0 / (1.0 - p)).masked_fill_((hashes ^ _HIGH_BIT) < bound, 0.0)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift that fills with zeros."""
    width = 64 if x.dtype == torch.int64 else 32
    shifted: Tensor = (x >> bits) & (2 ** (width - bits) - 1)
    return shifted


def _mixed(h: Tensor) -> Tensor:
    """A 32-bit integer hash of two rounds; multiplication wraps."""
    h = (h ^ _shifted(h, 16)) * 0x7FEB352D
    h = (h ^ _shifted(h, 15)) * (0x846CA68B - 2**32)
    return h ^ _shifted(h, 16)
