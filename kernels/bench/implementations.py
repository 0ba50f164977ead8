"""The ways to compute a layer that are timed against each other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from laconvnet import kernels
from laconvnet.kernels import chunks, cuda, dispatch
from laconvnet.kernels.backend import PLAIN, Backend
from laconvnet.kernels.bench import triton_rival
from laconvnet.kernels.bench.cases import Case
from laconvnet.kernels.bench.timing import Step
from laconvnet.kernels.cuda import involution
from laconvnet.kernels.cuda.fused import Fused
from laconvnet.kernels.recipe import Recipe

BASELINE = "unfold"
WAYS = (BASELINE, "unfold_compiled", "taps", "involution", "triton", dispatch.FUSED, dispatch.CHUNKS, "laconv")
Layer = Callable[..., Tensor]


def unfold_conv(x: Tensor, filters: Tensor, kernel_size: int, groups: int) -> Tensor:
    """v2 Eq. 2, the textbook way: every pixel's neighbourhood written out, then a product with its filters.

    x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W).
    """
    batch, channels, height, width = x.shape
    patches = F.unfold(x, kernel_size, padding=kernel_size // 2)
    patches = patches.view(batch, groups, channels // groups, kernel_size**2, height, width)
    by_tap = filters.reshape(batch, kernel_size**2, groups, height, width)
    return torch.einsum("bgnthw,btghw->bgnhw", patches, by_tap).reshape(x.shape)


def unfold_laconv(x: Tensor, cond: Tensor, weight: Tensor, bias: Tensor, kernel_size: int, groups: int) -> Tensor:
    """v2 Eq. 2-3 in the same way: x (B, C, H, W), cond (B, c, H, W), weight (k*k*g, c), bias (k*k*g,) -> as x."""
    return unfold_conv(x, F.conv2d(cond, weight[:, :, None, None], bias), kernel_size, groups)


class _Convolution(torch.autograd.Function):
    """A backend's convolution, the filters kept for backward: what an extension of the authors' time does."""

    @staticmethod
    def forward(ctx: Any, implementation: Backend, x: Tensor, filters: Tensor, kernel_size: int, groups: int) -> Tensor:
        ctx.save_for_backward(x, filters)
        ctx.implementation, ctx.sizes = implementation, (kernel_size, groups, False)
        return implementation.dynamic_conv(x, filters, *ctx.sizes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return None, *ctx.implementation.dynamic_conv_backward(grad, *ctx.saved_tensors, *ctx.sizes), None, None


def involution_conv(implementation: Backend, x: Tensor, filters: Tensor, kernel_size: int, groups: int) -> Tensor:
    """v2 Eq. 2 by a backend: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W)."""
    out: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
        implementation, x, filters, kernel_size, groups
    )
    return out


def involution_laconv(
    implementation: Backend, x: Tensor, cond: Tensor, weight: Tensor, bias: Tensor, kernel_size: int, groups: int
) -> Tensor:
    """v2 Eq. 2-3 by a backend: x (B, C, H, W), cond (B, c, H, W), weight (k*k*g, c), bias (k*k*g,) -> as x."""
    return involution_conv(implementation, x, F.conv2d(cond, weight[:, :, None, None], bias), kernel_size, groups)


def implementations(
    case: Case, operation: str, device: torch.device, dtype: torch.dtype, compiled: bool
) -> dict[str, Any]:
    """Name -> steps for `compare`.

    unfold              unfold + einsum in eager PyTorch (the baseline), in contiguous layout, which suits it best,
                        and on as many images as it has room for
    unfold_compiled     the same under torch.compile
    taps                our loop over taps (or matrix products) in plain PyTorch
    involution          one thread an output number, as the authors' kernel is written, in its own contiguous layout and
                        with the filters of the whole batch in memory (GPU, where it is built)
    triton              filters made and used in Triton, forward alone (GPU, where Triton is installed)
    fused, chunks       the two paths of the operator, whichever it chooses (GPU, where there is a fused kernel)
    laconv              what the operator chooses on this device
    """
    tensors = case.tensors(operation, device, dtype)
    flat = _given(tensors, case.batch)
    few = flat if case.unfold_batch == case.batch else _given(tensors, case.unfold_batch)
    sizes = (case.kernel_size, case.groups)
    given = operation == "dynamic_conv"
    eager = unfold_conv if given else unfold_laconv
    found = {BASELINE: _differentiated(eager, few, sizes)}
    if compiled:
        torch.compiler.reset()  # after eight layers PyTorch would compile no more, without a word
        found["unfold_compiled"] = _differentiated(torch.compile(eager, dynamic=False), few, sizes)
    found["taps"] = _direct(PLAIN, operation, tensors, sizes)
    if (other := involution.ready(device)) is not None:
        theirs = functools.partial(involution_conv if given else involution_laconv, other)
        found["involution"] = _differentiated(theirs, flat, sizes)
    if not given:
        found |= _in_triton(tensors, sizes) | _paths(tensors, sizes)
    found["laconv"] = _differentiated(kernels.dynamic_conv if given else kernels.laconv, tensors, sizes)
    return found


def _in_triton(tensors: tuple[Tensor, ...], sizes: tuple[int, int]) -> dict[str, dict[str, Step]]:
    x, cond, weight, bias = (tensor.detach() for tensor in tensors)
    if not (triton_rival.ready() and x.is_cuda and triton_rival.takes(x, cond)):
        return {}
    return {"triton": {"forward": lambda _: triton_rival.laconv(x, cond, weight, bias, *sizes)}}


def _paths(tensors: tuple[Tensor, ...], sizes: tuple[int, int]) -> dict[str, dict[str, Step]]:
    """The operator's two paths without autograd, for x and its like in `tensors`; nothing where one is missing."""
    x, cond, weight, bias = (tensor.detach() for tensor in tensors)
    library = cuda.ready(x.device)
    recipe = Recipe(weight, bias, *sizes, 0.0, None, False)
    if library is None or Fused(library).forward(x[:1], cond[:1], recipe) is None:
        return {}
    kernels, grad = Fused(library), torch.ones_like(x)
    return {
        dispatch.FUSED: {
            "forward": lambda _: kernels.forward(x, cond, recipe),
            "backward": lambda _: (
                kernels.grad_x(grad, x, cond, recipe),
                kernels.grad_filters(grad, x, cond, recipe, of_cond=True, of_weight=True),
            ),
        },
        dispatch.CHUNKS: {
            "forward": lambda _: chunks.forward(library, x, cond, recipe),
            "backward": lambda _: chunks.backward(library, grad, x, cond, recipe),
        },
    }


def images(name: str, case: Case) -> int:
    """How many a way takes at once."""
    return case.unfold_batch if name.startswith("unfold") else case.batch


def _given(tensors: tuple[Tensor, ...], images: int) -> tuple[Tensor, ...]:
    """Contiguous, the first images of them; weight and bias whole."""
    parts = (t.detach()[:images] if t.dim() == 4 else t.detach() for t in tensors)
    return tuple(part.contiguous().requires_grad_() for part in parts)


def _differentiated(layer: Layer, tensors: tuple[Tensor, ...], sizes: tuple[int, int]) -> dict[str, Step]:
    grad = torch.ones_like(tensors[0])

    def forward(_: Any) -> Tensor:
        return layer(*tensors, *sizes)

    def backward(out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, tensors, grad)

    return {"forward": forward, "backward": backward}


def _direct(
    implementation: Backend, operation: str, tensors: tuple[Tensor, ...], sizes: tuple[int, int]
) -> dict[str, Step]:
    """A backend without autograd around it."""
    inputs: Any = tuple(t.detach() for t in tensors)
    grad = torch.ones_like(inputs[0])
    if operation == "dynamic_conv":
        arguments: Any = (*inputs, *sizes, False)
        return {
            "forward": lambda _: implementation.dynamic_conv(*arguments),
            "backward": lambda _: implementation.dynamic_conv_backward(grad, *arguments),
        }
    x, cond, weight, bias = inputs
    arguments = (x, cond, Recipe(weight, bias, *sizes, 0.0, None, False))
    return {
        "forward": lambda _: chunks.forward(implementation, *arguments),
        "backward": lambda _: chunks.backward(implementation, grad, *arguments),
    }
