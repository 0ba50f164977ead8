"""The language-guided dynamic convolution (LaConv) operator.

    dynamic_conv(x, filters, kernel_size, groups)      v2 Eq. 2, the filters given pixel by pixel
    laconv(x, cond, weight, bias, kernel_size, groups) v2 Eq. 1-3, the filters projected from a condition map

Nothing but torch is imported; shapes are in `kernels.plain.taps`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import laconvnet.kernels.norm
import laconvnet.kernels.operator  # noqa: F401  (registers the operators)

__all__ = ["dynamic_conv", "laconv"]

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def dynamic_conv(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool = False) -> Tensor:
    """Convolves every pixel of `x` with its own filters: stride 1, zero padding `kernel_size // 2`, no bias (v2 Eq. 2).

    x (B, C, H, W); filters (B, kernel_size**2 * groups, H, W), channel `tap * groups + group`, taps in row-major order;
    returns (B, C, H, W) in the memory format of x. Channel ch belongs to group ch // (C / groups), with `interleaved`
    to ch % groups. Differentiable once in `x` and `filters`; only the two are kept for backward. Half precision
    accumulates in float32; under autocast both inputs are taken in the autocast type.

    Raises ValueError naming the argument that does not fit.
    """
    x, filters = _autocast(x, filters)
    _check_image(x, kernel_size, groups)
    expected = (x.shape[0], kernel_size**2 * groups, *x.shape[2:])
    if filters.shape != expected:
        raise ValueError(f"filters: expected {expected} (B, kernel_size**2 * groups, H, W), got {tuple(filters.shape)}")
    _check_alike(x, filters=filters)
    out: Tensor = torch.ops.laconv.dynamic_conv(x, filters, kernel_size, groups, interleaved)
    return out


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
    groups, M); bias (kernel_size**2 * groups,) or None; returns (B, C, H, W) in the memory format of x. With
    `dropout_p` > 0 every filter value is dropped with that probability and the others are scaled by
    1 / (1 - dropout_p); the mask is a function of `seed` (an integer, or an integer tensor of one element on the CPU
    or the device of x) alone, so a recomputed forward sees the same one.

    The filters are never kept: forward and backward make them for a few images at a time (`kernels.chunks`), and only
    x, cond, weight, bias and the seed are saved. Differentiable once in those four. Half precision accumulates in
    float32; under autocast all inputs are taken in the autocast type.

    Raises ValueError naming the argument that does not fit.
    """
    x, cond, weight, bias = _autocast(x, cond, weight, bias)
    _check_image(x, kernel_size, groups)
    if cond.dim() != 4 or cond.shape[0] != x.shape[0] or cond.shape[2:] not in (x.shape[2:], (1, 1)):
        raise ValueError(
            f"cond: expected ({x.shape[0]}, M, {x.shape[2]}, {x.shape[3]}) or ({x.shape[0]}, M, 1, 1) for x "
            f"{tuple(x.shape)}, got {tuple(cond.shape)}"
        )
    expected = (kernel_size**2 * groups, cond.shape[1])
    if weight.shape != expected:
        raise ValueError(f"weight: expected {expected} (kernel_size**2 * groups, M), got {tuple(weight.shape)}")
    if bias is not None and bias.shape != expected[:1]:
        raise ValueError(f"bias: expected {expected[:1]} (kernel_size**2 * groups,), got {tuple(bias.shape)}")
    _check_alike(x, cond=cond, weight=weight, bias=bias)
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p: expected a probability in [0, 1), got {dropout_p}")
    seed = _seed(seed, x) if dropout_p > 0.0 else None
    out: Tensor = torch.ops.laconv.laconv(x, cond, weight, bias, kernel_size, groups, dropout_p, seed, interleaved)
    return out


def _autocast(x: Tensor, *others: Any) -> Any:
    device = x.device.type
    if x.is_floating_point() and device != "meta" and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        return tuple(None if tensor is None else tensor.to(dtype) for tensor in (x, *others))
    return x, *others


def _check_image(x: Tensor, kernel_size: int, groups: int) -> None:
    if x.dim() != 4:
        raise ValueError(f"x: expected (B, C, H, W), got {tuple(x.shape)}")
    if x.dtype not in FLOATS:
        raise ValueError(f"x: expected float64, float32, float16 or bfloat16, got {x.dtype}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: expected an odd positive number, got {kernel_size}")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups: expected a divisor of the {x.shape[1]} channels of x, got {groups}")


def _check_alike(x: Tensor, **others: Tensor | None) -> None:
    for name, tensor in others.items():
        if tensor is not None and tensor.dtype != x.dtype:
            raise ValueError(f"{name}: expected the type of x, {x.dtype}, got {tensor.dtype}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name}: expected the device of x, {x.device}, got {tensor.device}")


def _seed(seed: int | Tensor | None, x: Tensor) -> Tensor:
    if seed is None:
        raise ValueError("seed: dropout_p > 0 needs an integer, got None")
    seed = torch.as_tensor(seed)
    if seed.dtype.is_floating_point or seed.dtype.is_complex or seed.dtype == torch.bool or seed.numel() != 1:
        raise ValueError(f"seed: expected one integer, got {seed.dtype} of shape {tuple(seed.shape)}")
    if seed.device.type != "cpu" and seed.device != x.device:
        raise ValueError(f"seed: expected the CPU or the device of x, {x.device}, got {seed.device}")
    return seed.to(torch.int64).reshape(1)
