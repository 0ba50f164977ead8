"""The language-guided dynamic convolution (LaConv) operator.

    dynamic_conv(x, filters, kernel_size, groups)      v2 Eq. 2, the filters given pixel by pixel
    laconv(x, cond, weight, bias, kernel_size, groups) v2 Eq. 1-3, the filters projected from a condition map

Nothing but torch is imported; shapes are in `kernels.reference`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels.operator  # noqa: F401  (registers the operators)

__all__ = ["dynamic_conv", "laconv"]

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def dynamic_conv(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool = False) -> Tensor:
    """Convolves every pixel of `x` with its own filters: stride 1, zero padding `kernel_size // 2`, no bias (v2 Eq. 2).

    x (B, C, H, W); filters (B, kernel_size**2 * groups, H, W), channel `tap * groups + group`, taps in row-major order;
    returns (B, C, H, W). Channel ch belongs to group ch // (C / groups), with `interleaved` to ch % groups.
    Differentiable once in `x` and `filters`; only the two are kept for backward. Half precision accumulates in float32;
    under autocast both inputs are taken in the autocast type.

    Raises ValueError naming the argument that does not fit.
    """
    x, filters = _autocast(x, filters)
    _check(x, filters, kernel_size, groups)
    return torch.ops.laconv.dynamic_conv(x, filters, kernel_size, groups, interleaved)


def laconv(
    x: Tensor,
    cond: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    groups: int,
    dropout_p: float = 0.0,
    seed: int | Tensor | None = None,
    interleaved: bool = False,
) -> Tensor:
    """Language-guided dynamic convolution: `dynamic_conv(x, cond W1 + b1)` (v2 Eq. 1-3).

    x (B, C, H, W); cond (B, M, H, W), or (B, M, 1, 1) for the same filters at every pixel; weight (kernel_size**2 *
    groups, M); bias (kernel_size**2 * groups,) or None; returns (B, C, H, W). With `dropout_p` > 0 every filter value
    is dropped with that probability; the mask is a function of `seed` (an integer or an integer tensor on the CPU)
    alone, so a recomputed forward sees the same one.

    Raises ValueError naming the argument that does not fit.
    """
    if weight.dim() != 2 or cond.dim() != 4 or weight.shape[1] != cond.shape[1]:
        raise ValueError(
            f"weight: expected (kernel_size**2 * groups, {cond.shape[1] if cond.dim() == 4 else 'M'}) for cond "
            f"{tuple(cond.shape)} of (B, M, H, W), got {tuple(weight.shape)}"
        )
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p: expected a probability in [0, 1), got {dropout_p}")
    filters = F.conv2d(cond, weight[:, :, None, None], bias)
    if dropout_p > 0.0:
        if seed is None:
            raise ValueError(f"seed: dropout_p = {dropout_p} needs an integer, got None")
        seed = torch.as_tensor(seed)
        if seed.dtype.is_floating_point or seed.numel() != 1 or seed.device.type != "cpu":
            raise ValueError(f"seed: expected one integer on the CPU, got {seed!r}")
        filters = torch.ops.laconv.seeded_dropout(filters, seed, dropout_p)
    if filters.shape[2:] == (1, 1) and x.dim() == 4:
        filters = filters.expand(-1, -1, *x.shape[2:])
    return dynamic_conv(x, filters, kernel_size, groups, interleaved)


def _autocast(x: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    device = x.device.type
    if x.is_floating_point() and device != "meta" and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        return x.to(dtype), filters.to(dtype)
    return x, filters


def _check(x: Tensor, filters: Tensor, kernel_size: int, groups: int) -> None:
    if x.dim() != 4:
        raise ValueError(f"x: expected (B, C, H, W), got {tuple(x.shape)}")
    if x.dtype not in FLOATS:
        raise ValueError(f"x: expected float64, float32, float16 or bfloat16, got {x.dtype}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: expected an odd positive number, got {kernel_size}")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups: expected a divisor of the {x.shape[1]} channels of x, got {groups}")
    expected = (x.shape[0], kernel_size**2 * groups, *x.shape[2:])
    if filters.shape != expected:
        raise ValueError(f"filters: expected {expected} (B, kernel_size**2 * groups, H, W), got {tuple(filters.shape)}")
    if filters.dtype != x.dtype:
        raise ValueError(f"filters: expected the type of x, {x.dtype}, got {filters.dtype}")
    if filters.device != x.device:
        raise ValueError(f"filters: expected the device of x, {x.device}, got {filters.device}")
