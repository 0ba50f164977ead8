"""Parts that compute in float32 whatever the rest of the model is cast to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

LOW = (torch.float16, torch.bfloat16)


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off inside; the meta device, where costs are counted, has no autocast to switch."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class KeepFloat32(nn.Module):
    """Mix-in, named first: `half()`, `bfloat16()`, `to(dtype)` move the module's tensors but leave them in float32."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in LOW else moved

        apply: Callable[..., nn.Module] = super()._apply
        return apply(at_least_float32, recurse)
