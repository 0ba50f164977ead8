"""Dropout whose mask is computed, never stored: one rule, the same bits on every backend.

A mask is a function of one 64-bit key an image and layer (`kernels.keys`), and of the place in that image. So chunks of
a batch see the mask of the whole, whatever their size, and backward, activation checkpointing and a resumed run see
that of forward. Philox4x32-7 (Salmon et al. 2011) under that key turns a counter of four 32-bit words into 16 bytes,
little endian:

    filters (k*k*g, H, W), tap dy * k + dx, group:   counter (y * W + x, group, block, 0)
        k <= 3    block 0                            byte dy * k + dx
        k >= 5    block dx/2 + (k+1)/2 * (dy/8)      byte 2 * (dy % 8) + dx % 2
    any other tensor, element e of an image:         counter (e/16, e/16 >> 32, 0, 1), byte e % 16

With T = round(256 p) a value is kept where its byte is at least T, and then scaled by 256 / (256 - T). The blocks are
what one lane of a tensor-core product holds. `kernels/cpu/dropout.h` and `kernels/cuda/mask.cuh` compute the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 256  # of a probability
BYTES = 16  # of one counter
ROUNDS = 7
_WORD = 2**32 - 1


def check_probability(p: float, name: str = "dropout_p") -> None:
    """Raises ValueError for a probability that is neither 0 nor, to the nearest step, from 1/256 to 255/256."""
    if p == 0.0:
        return
    if not 0.0 < p < 1.0 or not 0 < threshold(p) < STEPS:
        raise ValueError(f"{name}: expected 0, or to the nearest 1/256 a value from 1/256 to 255/256, got {p}")


def threshold(p: float) -> int:
    """T: a value is dropped where its byte is below this."""
    return round(STEPS * p)


def scale(p: float) -> float:
    """What a value that is kept is multiplied by, so that means stay."""
    return STEPS / (STEPS - threshold(p))


def dropout_(filters: Tensor, keys: Tensor, kernel_size: int, groups: int, p: float) -> None:
    """Drops values of filters (B, k*k*g, H, W), in place; keys (B,) int64 on their device, one an image.

    p is a step that `check_probability` allows.
    """
    if not filters.numel():
        return
    height, width = filters.shape[2:]
    pixel = torch.arange(height * width, device=filters.device)
    group = torch.arange(groups, device=filters.device)[:, None]
    block = torch.arange(_blocks(kernel_size), device=filters.device)[:, None, None]
    blocks, places = _places(kernel_size)
    for image, key in zip(filters, keys, strict=True):  # one image's bytes at a time
        octets = torch.stack(_octets((pixel, group, block, 0), key), 1)  # (blocks, 16, g, P)
        dropped = octets[blocks, places].view(filters.shape[1:]) < threshold(p)
        image.mul_(scale(p)).masked_fill_(dropped, 0.0)


def dropout(values: Tensor, keys: Tensor, p: float) -> Tensor:
    """`values` (B, ...) with some dropped, contiguous; keys (B,) int64 on their device, one an image.

    p is a step that `check_probability` allows.
    """
    dense = values.contiguous()
    if not values.numel():
        return dense.clone()
    elements = values[0].numel()
    counter = torch.arange((elements + BYTES - 1) // BYTES, device=values.device)
    octets = _octets((counter & _WORD, counter >> 32, 0, 1), keys[:, None])
    dropped = torch.stack(octets, 2).flatten(1)[:, :elements].view(values.shape) < threshold(p)
    return (dense * scale(p)).masked_fill_(dropped, 0.0)


def philox(counter: tuple[Tensor | int, ...], key: Tensor) -> list[Tensor]:
    """The four words of each counter, int64 below 2**32, of the shape that a counter's words and key broadcast to."""
    c0, c1, c2, c3 = (torch.as_tensor(word, device=key.device) for word in counter)
    key0, key1 = key & _WORD, (key >> 32) & _WORD
    for _ in range(ROUNDS):
        # Signed products wrap: their 64 bits are those of the unsigned ones.
        p, s = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((s >> 32) & _WORD) ^ c1 ^ key0, s & _WORD, ((p >> 32) & _WORD) ^ c3 ^ key1, p & _WORD
        key0, key1 = (key0 + 0x9E3779B9) & _WORD, (key1 + 0xBB67AE85) & _WORD
    return list(torch.broadcast_tensors(c0, c1, c2, c3))


def _octets(counter: tuple[Tensor | int, ...], key: Tensor) -> list[Tensor]:
    """The 16 bytes of each counter, uint8."""
    return [((word >> shift) & 255).to(torch.uint8) for word in philox(counter, key) for shift in (0, 8, 16, 24)]


def _blocks(kernel_size: int) -> int:
    return 1 if kernel_size <= 3 else (kernel_size + 1) // 2 * ((kernel_size + 7) // 8)


def _places(kernel_size: int) -> tuple[list[int], list[int]]:
    """Block and byte of each tap."""
    if kernel_size <= 3:
        return [0] * kernel_size**2, list(range(kernel_size**2))
    taps = [(dy, dx) for dy in range(kernel_size) for dx in range(kernel_size)]
    across = (kernel_size + 1) // 2
    return [dx // 2 + across * (dy // 8) for dy, dx in taps], [2 * (dy % 8) + dx % 2 for dy, dx in taps]
