"""The operators under `torch.func`: `grad`, `vjp` and `vmap` work, forward-mode derivatives are refused by name.

An operator of `torch.library` gives a tangent of zero to `torch.func.jvp` without a word, and its generated backward is
refused by `torch.func.grad`. An `autograd.Function` with `setup_context` is known to both, so one goes around the
operator where a transform or forward-mode differentiation is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

Gradient = Callable[
    ..., Sequence[Tensor | None]
]  # (gradient of the output, *arguments) -> those of the first arguments


def applied(name: str, gradient: Gradient, images: Sequence[int], arguments: Sequence[Any]) -> Tensor:
    """The result of operator `name` of namespace laconv for these arguments, whatever transform is under way.

    `images` are the places of the arguments (B, ...), in whose dimension for images calls under `vmap` are joined.
    Raises RuntimeError for forward-mode derivatives, for second ones, and for a `vmap` over anything but images.
    """
    operator = getattr(torch.ops.laconv, name)
    if torch.compiler.is_compiling() or not _under_transform():
        out: Tensor = operator(*arguments)
        return out
    found: Tensor = _function(name, operator, gradient, images).apply(*arguments)
    return found


def _under_transform() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _function(
    name: str, operator: Callable[..., Tensor], gradient: Gradient, images: Sequence[int]
) -> type[torch.autograd.Function]:
    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> tuple[Tensor | None, ...]:
            return tuple(gradient(*arguments))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> NoReturn:
            raise RuntimeError(f"{name}: differentiable once; a derivative of its gradients was asked for")

        @staticmethod
        def vmap(*_: Any) -> NoReturn:
            raise RuntimeError(f"{name}: no vmap over its gradients (jacrev, gradients by sample); use a loop")

    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> Tensor:
            return operator(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.places = [place for place, value in enumerate(inputs) if isinstance(value, Tensor)]
            ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]
            ctx.save_for_backward(*(inputs[place] for place in ctx.places))

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            arguments = list(ctx.others)
            for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
                arguments[place] = tensor
            grads: tuple[Tensor | None, ...] = Backward.apply(grad, *arguments)  # type: ignore[no-untyped-call]
            given = zip(grads, arguments[: len(grads)], strict=True)
            none = [None] * (len(arguments) - len(grads))
            return *(one if isinstance(argument, Tensor) else None for one, argument in given), *none

        @staticmethod
        def jvp(*_: Any) -> NoReturn:
            raise RuntimeError(f"{name}: no forward-mode derivative (torch.func.jvp, jacfwd); use grad or vjp")

        @staticmethod
        def vmap(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
            if any(dim is not None and place not in images for place, dim in enumerate(dims)):
                raise RuntimeError(
                    f"{name}: no vmap but over images: expected the same weights in every call; use a loop"
                )
            joined = [
                _joined(value, dims[place], info.batch_size) if place in images else value
                for place, value in enumerate(arguments)
            ]
            out: Tensor = Forward.apply(*joined)  # type: ignore[no-untyped-call]
            return out.unflatten(0, (info.batch_size, -1)), 0

    return Forward


def _joined(tensor: Tensor | None, dim: int | None, calls: int) -> Tensor | None:
    """The images (B, ...) of all calls as one batch: their dimension `dim` is the calls', or each has the same ones."""
    if tensor is None:
        return None
    moved = tensor.unsqueeze(0).expand(calls, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return moved.flatten(0, 1)
