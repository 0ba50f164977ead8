"""The operators of namespace `laconv`, declared in Python so that they exist without a compiler and without a GPU.

    laconv::laconv                 filters from the condition and the convolution in one; keeps only its inputs
    laconv::laconv_backward        its gradients, the filters made anew
    laconv::dynamic_conv           the convolution with filters that are given
    laconv::dynamic_conv_backward  its gradients
    laconv::keyed_dropout          dropout by keys, its own gradient

Derivatives of derivatives are refused. `kernels.backend` chooses the implementation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from laconvnet.kernels import chunks, shared_filters
from laconvnet.kernels.backend import backend, computing_dtype
from laconvnet.kernels.recipe import Recipe

LIBRARY = torch.library.Library("laconv", "DEF")

_ARGUMENTS = (
    "Tensor x, Tensor cond, Tensor weight, Tensor? bias, int kernel_size, int groups, float dropout_p, Tensor? keys, "
    "bool interleaved"
)
_DYNAMIC_ARGUMENTS = "Tensor x, Tensor filters, int kernel_size, int groups, bool interleaved"
for _schema in (
    f"laconv({_ARGUMENTS}) -> Tensor",
    f"laconv_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    f"dynamic_conv({_DYNAMIC_ARGUMENTS}) -> Tensor",
    f"dynamic_conv_backward(Tensor grad, {_DYNAMIC_ARGUMENTS}) -> (Tensor, Tensor)",
    "keyed_dropout(Tensor values, Tensor keys, float p) -> Tensor",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def laconv(x: Tensor, cond: Tensor, *rest: Any) -> Tensor:
    """x (B, C, H, W), cond (B, M, H, W) or (B, M, 1, 1), the fields of `Recipe` -> (B, C, H, W) (v2 Eq. 1-3)."""
    forward = chunks.forward if _by_pixel(x, cond) else shared_filters.forward
    return forward(backend(x.device, x.dtype), x, cond, Recipe(*rest).on_its_device())


def laconv_backward(grad: Tensor, x: Tensor, cond: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, cond, weight and bias, each as its tensor, from that of the output, (B, C, H, W).

    Without a bias the last is empty, (0,).
    """
    implementation, recipe = backend(x.device, x.dtype), Recipe(*rest).on_its_device()
    backward = chunks.backward if _by_pixel(x, cond) else shared_filters.backward
    grad_x, grad_cond, grad_weight, grad_bias = backward(implementation, grad, x, cond, recipe)
    weight, bias = recipe.weight, recipe.bias
    grad_weight = torch.empty_like(weight).copy_(grad_weight)
    grad_bias = weight.new_empty(0) if bias is None else torch.empty_like(bias).copy_(grad_bias)
    return grad_x, grad_cond, grad_weight, grad_bias


def _by_pixel(x: Tensor, cond: Tensor) -> bool:
    return cond.shape[2:] == x.shape[2:]


def dynamic_conv(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
    """x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W) in the type of x (v2 Eq. 2)."""
    implementation, dtype = backend(x.device, x.dtype), computing_dtype(x.device, x.dtype)
    if dtype == x.dtype:
        return implementation.dynamic_conv(x, filters, kernel_size, groups, interleaved)
    out = torch.empty_like(x)
    for part in chunks.slices(len(x), filters[:1].numel() * dtype.itemsize):
        out[part] = implementation.dynamic_conv(
            x[part].to(dtype), filters[part].to(dtype), kernel_size, groups, interleaved
        )
    return out


def dynamic_conv_backward(
    grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """The gradients of x (B, C, H, W) and filters (B, k*k*g, H, W), from that of the output, (B, C, H, W)."""
    implementation, dtype = backend(x.device, x.dtype), computing_dtype(x.device, x.dtype)
    if dtype == x.dtype:
        return implementation.dynamic_conv_backward(grad, x, filters, kernel_size, groups, interleaved)
    grad_x, grad_filters = torch.empty_like(x), torch.empty_like(filters)
    for part in chunks.slices(len(x), filters[:1].numel() * dtype.itemsize):
        upper, source, by = grad[part].to(dtype), x[part].to(dtype), filters[part].to(dtype)
        grad_x[part], grad_filters[part] = implementation.dynamic_conv_backward(
            upper, source, by, kernel_size, groups, interleaved
        )
    return grad_x, grad_filters


def keyed_dropout(values: Tensor, keys: Tensor, p: float) -> Tensor:
    """values (B, ...), keys (B,) -> the same shape and type, contiguous, by the rule of `kernels.dropout`."""
    return backend(values.device, values.dtype).dropout(values, keys.to(values.device), p)


def _in_input_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast would go on to choose types for the products inside; the operator's types are those of its inputs."""

    @functools.wraps(function)
    def run(first: Tensor, *rest: Any) -> Any:
        if not torch.is_autocast_enabled(first.device.type):
            return function(first, *rest)
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *rest)

    return run


for _function in (laconv, laconv_backward, dynamic_conv, dynamic_conv_backward, keyed_dropout):
    for _device in ("CPU", "CUDA"):
        LIBRARY.impl(_function.__name__, _in_input_types(_function), _device)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_laconv_backward(
    grad: Tensor, x: Tensor, cond: Tensor, weight: Tensor, bias: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    last = weight.new_empty(0) if bias is None else torch.empty_like(bias)
    return torch.empty_like(x), torch.empty_like(cond), torch.empty_like(weight), last


def _fake_dynamic_conv_backward(grad: Tensor, x: Tensor, filters: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(filters)


def _fake_keyed_dropout(values: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


for _name, _shapes in (
    ("laconv", _fake),
    ("laconv_backward", _fake_laconv_backward),
    ("dynamic_conv", _fake),
    ("dynamic_conv_backward", _fake_dynamic_conv_backward),
    ("keyed_dropout", _fake_keyed_dropout),
):
    torch.library.register_fake(f"laconv::{_name}", _shapes, lib=LIBRARY)


def _save_laconv(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.kernel_size, ctx.groups, ctx.dropout_p, keys, ctx.interleaved = inputs
    ctx.save_for_backward(*tensors, keys)


def _laconv_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, cond, weight, bias, keys = ctx.saved_tensors
    grads = torch.ops.laconv.laconv_backward(
        grad, x, cond, weight, bias, ctx.kernel_size, ctx.groups, ctx.dropout_p, keys, ctx.interleaved
    )
    wanted = ctx.needs_input_grad[:4]
    return *(one if needed else None for one, needed in zip(grads, wanted, strict=True)), *(None,) * 5


def _save_dynamic_conv(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, filters, ctx.kernel_size, ctx.groups, ctx.interleaved = inputs
    ctx.save_for_backward(x, filters)


def _dynamic_conv_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, filters = ctx.saved_tensors
    grads = torch.ops.laconv.dynamic_conv_backward(grad, x, filters, ctx.kernel_size, ctx.groups, ctx.interleaved)
    wanted = ctx.needs_input_grad[:2]
    return *(one if needed else None for one, needed in zip(grads, wanted, strict=True)), None, None, None


def _save_keyed_dropout(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, keys, ctx.p = inputs
    ctx.save_for_backward(keys)


def _keyed_dropout_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (keys,) = ctx.saved_tensors
    return torch.ops.laconv.keyed_dropout(grad, keys, ctx.p), None, None


def _no_second_derivative(ctx: Any, *grads: Tensor) -> NoReturn:
    raise RuntimeError("laconv: differentiable once; a derivative of its gradients was asked for")


for _name, _gradient, _save in (
    ("laconv", _laconv_gradient, _save_laconv),
    ("dynamic_conv", _dynamic_conv_gradient, _save_dynamic_conv),
    ("keyed_dropout", _keyed_dropout_gradient, _save_keyed_dropout),
    ("laconv_backward", _no_second_derivative, None),
    ("dynamic_conv_backward", _no_second_derivative, None),
):
    torch.library.register_autograd(f"laconv::{_name}", _gradient, setup_context=_save, lib=LIBRARY)
