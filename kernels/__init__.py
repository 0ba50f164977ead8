"""The language-guided dynamic convolution (LaConv) operator.

    dynamic_conv(x, filters, kernel_size, groups)      v2 Eq. 2, the filters given pixel by pixel
    laconv(x, cond, weight, bias, kernel_size, groups) v2 Eq. 1-3, the filters projected from a condition map
    keyed_dropout(values, keys, p)                     dropout of any tensor by the rule of `kernels.dropout`
    image_keys(seed, step, places, layers)             the keys of a batch

Nothing but torch is imported; shapes are in `kernels.plain.taps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import laconvnet.kernels.attention
import laconvnet.kernels.norm
import laconvnet.kernels.operator
import laconvnet.kernels.packed  # noqa: F401  (registers the operators)
from laconvnet.kernels.dropout import check_probability
from laconvnet.kernels.keys import image_keys
from laconvnet.kernels.transforms import applied

__all__ = [
    "check_probability",
    "dtype_taken",
    "dynamic_conv",
    "image_keys",
    "in_dtype_taken",
    "keyed_dropout",
    "laconv",
]

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def dynamic_conv(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool = False) -> Tensor:
    """Convolves every pixel of `x` with its own filters: stride 1, zero padding `kernel_size // 2`, no bias (v2 Eq. 2).

    x (B, C, H, W); filters (B, kernel_size**2 * groups, H, W), channel `tap * groups + group`, taps in row-major order;
    returns (B, C, H, W) in the memory format of x. Channel ch belongs to group ch // (C / groups), with `interleaved`
    to ch % groups. Differentiable once in `x` and `filters`; only the two are kept for backward. Half precision
    accumulates in float32; under autocast both inputs are taken in the autocast type.

    Raises ValueError naming the argument that does not fit.
    """
    x, filters = in_dtype_taken(x, filters)
    _check_image(x, kernel_size, groups)
    expected = (x.shape[0], kernel_size**2 * groups, *x.shape[2:])
    if filters.shape != expected:
        raise ValueError(f"filters: expected {expected} (B, kernel_size**2 * groups, H, W), got {tuple(filters.shape)}")
    _check_alike(x, filters=filters)
    arguments = (x, filters, kernel_size, groups, interleaved)
    return applied("dynamic_conv", _dynamic_conv_gradients, (0, 1), arguments)


def laconv(
    x: Tensor,
    cond: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    groups: int,
    dropout_p: float = 0.0,
    keys: Tensor | None = None,
    interleaved: bool = False,
) -> Tensor:
    """Language-guided dynamic convolution: `dynamic_conv(x, cond W1 + b1)` (v2 Eq. 1-3).

    x (B, C, H, W); cond (B, M, H, W), or (B, M, 1, 1) for the same filters at every pixel; weight (kernel_size**2 *
    groups, M); bias (kernel_size**2 * groups,) or None; returns (B, C, H, W) in the memory format of x. With
    `dropout_p` > 0 values of the filters are dropped by the rule of `kernels.dropout`, with that probability to the
    nearest 1/256; the mask of an image is a function of its key alone, so a recomputed forward sees the same one. keys
    (B,) int64, on the CPU or the device of x; `image_keys` makes them.

    The filters are never kept: forward and backward make them for a few images at a time (`kernels.chunks`), and only
    x, cond, weight, bias and the keys are saved. Differentiable once in those four. Half precision accumulates in
    float32; under autocast all inputs are taken in the autocast type.

    Raises ValueError naming the argument that does not fit.
    """
    x, cond, weight, bias = in_dtype_taken(x, cond, weight, bias)
    _check_image(x, kernel_size, groups)
    if cond.dim() != 4 or cond.shape[0] != x.shape[0] or cond.shape[2:] not in (x.shape[2:], (1, 1)):
        raise ValueError(
            f"cond: expected ({x.shape[0]}, M, {x.shape[2]}, {x.shape[3]}) or ({x.shape[0]}, M, 1, 1) for x "
            f"{tuple(x.shape)}, got {tuple(cond.shape)}"
        )
    if not cond.shape[1]:
        raise ValueError(f"cond: expected at least one channel M to make filters from, got {tuple(cond.shape)}")
    expected = (kernel_size**2 * groups, cond.shape[1])
    if weight.shape != expected:
        raise ValueError(f"weight: expected {expected} (kernel_size**2 * groups, M), got {tuple(weight.shape)}")
    if bias is not None and bias.shape != expected[:1]:
        raise ValueError(f"bias: expected {expected[:1]} (kernel_size**2 * groups,), got {tuple(bias.shape)}")
    _check_alike(x, cond=cond, weight=weight, bias=bias)
    check_probability(dropout_p)
    keys = _on_its_device(keys, x, "dropout_p") if dropout_p > 0.0 else None
    arguments = (x, cond, weight, bias, kernel_size, groups, dropout_p, keys, interleaved)
    return applied("laconv", _laconv_gradients, (0, 1, 7), arguments)


def keyed_dropout(values: Tensor, keys: Tensor | None, p: float) -> Tensor:
    """Dropout by the rule of `kernels.dropout`: values (B, ...) floating-point -> the same shape and type, contiguous.

    keys (B,) int64, on the CPU or the device of `values`, one an image and layer (`image_keys` makes them). Only they
    are saved: backward makes the mask again. Autocast changes no type. With p = 0 it is `values` itself.

    Raises ValueError naming the argument that does not fit; p is a probability as `check_probability` has it.
    """
    if values.dim() < 1 or values.dtype not in FLOATS:
        raise ValueError(
            f"values: expected (B, ...) of float64, float32, float16 or bfloat16, got {values.dtype} of shape "
            f"{tuple(values.shape)}"
        )
    check_probability(p, "p")
    if p == 0.0:
        return values
    return applied("keyed_dropout", _dropout_gradients, (0, 1), (values, _on_its_device(keys, values, "p"), p))


def _laconv_gradients(grad: Tensor, *arguments: Any) -> Sequence[Tensor]:
    grads: Sequence[Tensor] = torch.ops.laconv.laconv_backward(grad, *arguments, [True] * 4)
    return grads


def _dynamic_conv_gradients(grad: Tensor, *arguments: Any) -> Sequence[Tensor]:
    grads: Sequence[Tensor] = torch.ops.laconv.dynamic_conv_backward(grad, *arguments, [True] * 2)
    return grads


def _dropout_gradients(grad: Tensor, _: Tensor, keys: Tensor, p: float) -> Sequence[Tensor]:
    return (torch.ops.laconv.keyed_dropout(grad, keys, p),)


def dtype_taken(x: Tensor) -> torch.dtype:
    """The type that operators work in for x, of any shape: its own, or if not float64 that of an autocast around."""
    return torch.get_autocast_dtype(x.device.type) if _in_autocast(x) else x.dtype


def in_dtype_taken(x: Tensor, *others: Any) -> Any:
    """x and the others, of any shape, as operators take them: as they are, or all in the type of an autocast around."""
    if _in_autocast(x):
        dtype = dtype_taken(x)
        return tuple(None if tensor is None else tensor.to(dtype) for tensor in (x, *others))
    return x, *others


def _in_autocast(x: Tensor) -> bool:
    device = x.device.type
    known = x.is_floating_point() and x.dtype != torch.float64 and device != "meta"
    return known and torch.is_autocast_enabled(device)


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


def _on_its_device(keys: Tensor | None, x: Tensor, name: str) -> Tensor:
    """The keys where x is: they are copied once, for forward and backward."""
    if keys is None:
        raise ValueError(f"keys: {name} > 0 needs an int64 tensor ({x.shape[0]},), one key an image, got None")
    if keys.dtype != torch.int64 or keys.shape != x.shape[:1]:
        raise ValueError(
            f"keys: expected int64 of shape ({x.shape[0]},), one key an image, got {keys.dtype} of shape "
            f"{tuple(keys.shape)}"
        )
    if keys.device.type != "cpu" and keys.device != x.device:
        raise ValueError(f"keys: expected the CPU or the device of x, {x.device}, got {keys.device}")
    return keys.to(x.device)
