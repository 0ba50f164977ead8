"""One small launch whose result is known, before a library is given real work.

A driver that is older than the compiler, a chip that the machine code is not for or a compiler that errs shows here,
with its reason, and not in the middle of a run.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from laconvnet.kernels import plain


class Convolves(Protocol):
    """What of a backend is tried."""

    def dynamic_conv(self, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
        """v2 Eq. 2: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W)."""
        ...


def failure(backend: Convolves, device: torch.device) -> str | None:
    """What went wrong when this backend convolved a few numbers on this device; None where the result is right.

    The numbers are small integers: every order of summation gives the same bits.
    """
    batch, channels, groups, size = 2, 8, 2, 3
    x = _integers(batch, channels, 4, 5)
    filters = _integers(batch, size**2 * groups, 4, 5)
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False):
        expected = plain.dynamic_conv(x, filters, size, groups, False)
        try:
            found = backend.dynamic_conv(x.to(device), filters.to(device), size, groups, False).cpu()
        except RuntimeError as error:
            return f"the probe launch failed: {error}"
    if not torch.equal(found, expected):
        return f"the probe launch gave wrong numbers on {device}"
    return None


def _integers(*shape: int) -> Tensor:
    """Float32 from -3 to 3 in no simple order."""
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.int64, device="cpu")
    return (numbers * numbers * 5 % 7 - 3).to(torch.float32).reshape(shape)
