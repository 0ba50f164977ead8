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
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from laconvnet.kernels import chunks, fused, shared_filters
from laconvnet.kernels.backend import backend, computing_dtype, gradients
from laconvnet.kernels.formats import formatted
from laconvnet.kernels.recipe import Recipe

LIBRARY = torch.library.Library("laconv", "DEF")

_ARGUMENTS = (
    "Tensor x, Tensor cond, Tensor weight, Tensor? bias, int kernel_size, int groups, float dropout_p, Tensor? keys, "
    "bool interleaved"
)
_DYNAMIC_ARGUMENTS = "Tensor x, Tensor filters, int kernel_size, int groups, bool interleaved"
for _schema in (
    f"laconv({_ARGUMENTS}) -> Tensor",
    f"laconv_backward(Tensor grad, {_ARGUMENTS}, bool[4] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
    f"dynamic_conv({_DYNAMIC_ARGUMENTS}) -> Tensor",
    f"dynamic_conv_backward(Tensor grad, {_DYNAMIC_ARGUMENTS}, bool[2] wanted) -> (Tensor, Tensor)",
    "keyed_dropout(Tensor values, Tensor keys, float p) -> Tensor",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def laconv(x: Tensor, cond: Tensor, *rest: Any) -> Tensor:
    """x (B, C, H, W), cond (B, M, H, W) or (B, M, 1, 1), the fields of `Recipe` -> (B, C, H, W) (v2 Eq. 1-3)."""
    forward = fused.forward if _by_pixel(x, cond) else shared_filters.forward
    return forward(backend(x.device, x.dtype), x, cond, Recipe(*rest).on_its_device())


def laconv_backward(grad: Tensor, x: Tensor, cond: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """The gradients of x, cond, weight and bias, each as its tensor, from that of the output, (B, C, H, W).

    The last argument says which of the four are wanted; the others are not computed, but empty, (0,), as is that of a
    bias that is not there.
    """
    implementation, recipe = backend(x.device, x.dtype), Recipe(*rest[:-1]).on_its_device()
    likes = x, cond, recipe.weight, recipe.bias
    wanted = [one and like is not None for one, like in zip(rest[-1], likes, strict=True)]
    backward = fused.backward if _by_pixel(x, cond) else shared_filters.backward
    return _as_tensors(backward(implementation, grad, x, cond, recipe, wanted), likes, x)


def _as_tensors(grads: Sequence[Tensor | None], likes: Sequence[Tensor | None], first: Tensor) -> tuple[Tensor, ...]:
    """Each gradient in type and memory format of its tensor; an empty one like `first`, (0,), for none."""
    return tuple(
        first.new_empty(0) if grad is None or like is None else formatted(grad, like)
        for grad, like in zip(grads, likes, strict=True)
    )


def _by_pixel(x: Tensor, cond: Tensor) -> bool:
    return cond.shape[2:] == x.shape[2:]


def dynamic_conv(x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
    """x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W) in the type of x (v2 Eq. 2)."""
    implementation = backend(x.device, x.dtype)
    dtype = computing_dtype(implementation, x.device, x.dtype)
    if dtype == x.dtype:
        return implementation.dynamic_conv(x, filters, kernel_size, groups, interleaved)
    out = torch.empty_like(x)
    for part in chunks.slices(len(x), filters[:1].numel() * dtype.itemsize):
        out[part] = implementation.dynamic_conv(
            x[part].to(dtype), filters[part].to(dtype), kernel_size, groups, interleaved
        )
    return out


def dynamic_conv_backward(
    grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool, wanted: Sequence[bool]
) -> tuple[Tensor, ...]:
    """The gradients of x (B, C, H, W) and filters (B, k*k*g, H, W), from that of the output, (B, C, H, W).

    The last argument says which of the two are wanted; another is not computed, but empty, (0,).
    """
    implementation = backend(x.device, x.dtype)
    dtype = computing_dtype(implementation, x.device, x.dtype)
    sizes, likes = (kernel_size, groups, interleaved), (x, filters)
    source, by = x if wanted[1] else None, filters if wanted[0] else None  # what each gradient needs
    if dtype == x.dtype:
        return _as_tensors(gradients(implementation, grad, source, by, *sizes), likes, x)
    grads = [torch.empty_like(like) if one else None for like, one in zip(likes, wanted, strict=True)]
    for part in chunks.slices(len(x), filters[:1].numel() * dtype.itemsize):
        few, some = (None if t is None else t[part].to(dtype) for t in (source, by))
        found = gradients(implementation, grad[part].to(dtype), few, some, *sizes)
        for whole, one in zip(grads, found, strict=True):
            if whole is not None and one is not None:
                whole[part] = one
    return _as_tensors(grads, likes, x)


def keyed_dropout(values: Tensor, keys: Tensor, p: float) -> Tensor:
    """values (B, ...), keys (B,) -> the same shape and type, contiguous, by the rule of `kernels.dropout`."""
    return backend(values.device, values.dtype).dropout(values, keys.to(values.device), p)


def in_input_types(function: Callable[..., Any]) -> Callable[..., Any]:
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
        LIBRARY.impl(_function.__name__, in_input_types(_function), _device)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_laconv_backward(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return _fake_gradients(inputs[:4], inputs[-1])


def _fake_dynamic_conv_backward(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return _fake_gradients(inputs[:2], inputs[-1])


def _fake_gradients(likes: Sequence[Any], wanted: Sequence[bool]) -> tuple[Tensor, ...]:
    first = likes[0]
    return tuple(
        torch.empty_like(like) if one and like is not None else first.new_empty(0)
        for like, one in zip(likes, wanted, strict=True)
    )


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
    wanted = ctx.needs_input_grad[:4]
    grads = torch.ops.laconv.laconv_backward(
        grad, x, cond, weight, bias, ctx.kernel_size, ctx.groups, ctx.dropout_p, keys, ctx.interleaved, wanted
    )
    return *(one if needed else None for one, needed in zip(grads, wanted, strict=True)), *(None,) * 5


def _save_dynamic_conv(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, filters, ctx.kernel_size, ctx.groups, ctx.interleaved = inputs
    ctx.save_for_backward(x, filters)


def _dynamic_conv_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, filters = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:2]
    sizes = (ctx.kernel_size, ctx.groups, ctx.interleaved)
    grads = torch.ops.laconv.dynamic_conv_backward(grad, x, filters, *sizes, wanted)
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
