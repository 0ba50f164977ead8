"""The keys of dropout's masks: one 64-bit number an image and layer, hashed from what names the two."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def layer_number(name: str) -> int:
    """A layer's name as a number: the first 8 bytes of its SHA-256, as a signed 64-bit integer."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)


def image_keys(seed: int, step: int, places: Tensor, layers: Sequence[str]) -> Tensor:
    """keys[l, b], int64 (layers, B) on the device of `places`, for `kernels.laconv` and `kernels.keyed_dropout`.

    `places` (B,) int64 are the images' places in the global batch of the step, `layers` the names of the layers. Each
    key is a chain of splitmix64 over (seed, step, place, layer): another number anywhere makes another key.
    """
    numbers = torch.tensor([layer_number(name) for name in layers], dtype=torch.int64, device=places.device)
    start = torch.zeros((), dtype=torch.int64, device=places.device)
    state = _mixed(_mixed(start, _signed(seed)), _signed(step))
    return _mixed(_mixed(state, places), numbers[:, None])


def _mixed(state: Tensor, value: Tensor | int) -> Tensor:
    """One link of the chain; products wrap."""
    state = (state ^ value) + _signed(_GAMMA)
    state = (state ^ _shifted(state, 30)) * _signed(_FIRST)
    state = (state ^ _shifted(state, 27)) * _signed(_SECOND)
    return state ^ _shifted(state, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with zeros."""
    shifted: Tensor = (x >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value
