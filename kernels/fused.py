"""Where the fused kernels serve; the dependable path (`kernels.chunks`) serves in all other places.

A fused kernel is tried before it is trusted: the first call of each kind on a device is computed both ways, for one
image of the real tensors, and the kernel serves from then on if the two agree within the rounding of the type. One that
does not is never called again: KernelsMissing where kernels are required (`kernels.backend`), else a warning.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from laconvnet.kernels import chunks, dispatch
from laconvnet.kernels.backend import Backend, KernelsMissing, chosen
from laconvnet.kernels.cuda import Library
from laconvnet.kernels.cuda.fused import Fused
from laconvnet.kernels.recipe import PackedNorm, Recipe

LOGGER = logging.getLogger(__name__)
# Both paths sum in float32 and differ in what they round to the type on the way, by a few units of the last place of
# the largest values. Lanes that were mixed up would make errors as large as the values.
UNITS = 16

NAMES = ("x", "cond", "weight", "bias")  # of what has a gradient
Found = dict[str, Tensor]


class Inputs(NamedTuple):
    """x (B, C, H, W), cond (B, M, H, W), for gradients that of the output, (B, C, H, W).

    With a norm cond is the packed map, (B, s*s*M, H/s, W/s).
    """

    x: Tensor
    cond: Tensor
    recipe: Recipe
    grad: Tensor | None = None
    norm: PackedNorm | None = None

    def first(self) -> Inputs:
        """The same of the first image alone."""
        grad = None if self.grad is None else self.grad[:1]
        return Inputs(self.x[:1], self.cond[:1], self.recipe.of(slice(0, 1)), grad, self.norm)


class Kind(NamedTuple):
    """What is tried once: a kernel, by its device, its step, and all that its code depends on."""

    device: torch.device
    step: str
    dtype: torch.dtype
    kernel_size: int
    channels: int
    condition: int
    groups: int
    dropout: bool
    packing: int

    @classmethod
    def of(cls, step: str, inputs: Inputs) -> Kind:
        """The kind of this call."""
        x, recipe = inputs.x, inputs.recipe
        sizes = (recipe.kernel_size, x.shape[1], recipe.weight.shape[1], recipe.groups)
        packing = 0 if inputs.norm is None else inputs.norm.packing
        return cls(x.device, step, x.dtype, *sizes, recipe.dropout_p > 0.0, packing)

    def layer(self) -> dispatch.Measured:
        """What rows of measurements call it."""
        direction = "forward" if self.step == FORWARD else "backward"
        return (direction, _NAMES[self.dtype], self.kernel_size, self.channels, self.condition, self.groups)

    def words(self) -> str:
        """One line for people."""
        return (
            f"fused LaConv kernel, {self.step}, on {self.device}: {str(self.dtype).removeprefix('torch.')}, "
            f"k {self.kernel_size}, {self.channels} channels in {self.groups} groups, condition {self.condition}"
            f"{f', packed {self.packing} x {self.packing}' if self.packing else ''}"
            f"{', with dropout' if self.dropout else ''}"
        )


Step = Callable[[Fused, Inputs], Found | None]
FORWARD = "forward"
_NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_trusted: dict[Kind, bool] = {}


def forward(implementation: Backend, x: Tensor, cond: Tensor, recipe: Recipe, norm: PackedNorm | None = None) -> Tensor:
    """x (B, C, H, W), cond (B, M, H, W) -> (B, C, H, W) in the type and memory format of x (v2 Eq. 1-3).

    With `norm` cond is the packed map, (B, s*s*M, H/s, W/s) (`kernels.packed`).
    """
    inputs = Inputs(x, cond, recipe, norm=norm)

    def dependable(inputs: Inputs) -> Found:
        cond = inputs.cond if inputs.norm is None else torch.ops.laconv.unpack(inputs.cond, *inputs.norm)
        return {"out": chunks.forward(implementation, inputs.x, cond, inputs.recipe)}

    return (_by_kernel(FORWARD, _forward, dependable, implementation, inputs) or dependable(inputs))["out"]


def backward(
    implementation: Backend, grad: Tensor, x: Tensor, cond: Tensor, recipe: Recipe, wanted: Sequence[bool] = (True,) * 4
) -> tuple[Tensor | None, ...]:
    """The gradients of x, cond, weight and bias from that of the output, (B, C, H, W); each has its tensor's shape.

    Those of weight and bias are in at least float32. What is not `wanted` is not computed, but None.
    """
    inputs = Inputs(x, cond, recipe, grad)
    asked = frozenset(name for name, one in zip(NAMES, wanted, strict=True) if one)

    def dependable(inputs: Inputs, names: frozenset[str]) -> Found:
        assert inputs.grad is not None
        flags = [name in names for name in NAMES]
        grads = chunks.backward(implementation, inputs.grad, inputs.x, inputs.cond, inputs.recipe, flags)
        return {name: one for name, one in zip(NAMES, grads, strict=True) if one is not None}

    found: Found = {}
    for name, kernel, gives in (
        ("gradient of x", _grad_x, frozenset({"x"})),
        ("gradients of the filters", _grad_filters, frozenset({"cond", "weight", "bias"})),
    ):
        if asked & gives:
            step, checked = (
                functools.partial(kernel, names=asked & gives),
                functools.partial(dependable, names=asked & gives),
            )
            found |= _by_kernel(name, step, checked, implementation, inputs) or {}
    if asked - found.keys():
        found |= dependable(inputs, asked - found.keys())
    return tuple(found.get(name) for name in NAMES)


def _forward(kernels: Fused, inputs: Inputs) -> Found | None:
    out = kernels.forward(inputs.x, inputs.cond, inputs.recipe, inputs.norm)
    return None if out is None else {"out": out}


def _grad_x(kernels: Fused, inputs: Inputs, names: frozenset[str]) -> Found | None:
    assert inputs.grad is not None
    found = kernels.grad_x(inputs.grad, inputs.x, inputs.cond, inputs.recipe)
    return None if found is None else dict.fromkeys(names, found)


def _grad_filters(kernels: Fused, inputs: Inputs, names: frozenset[str]) -> Found | None:
    assert inputs.grad is not None
    found = kernels.grad_filters(
        inputs.grad, inputs.x, inputs.cond, inputs.recipe, of_cond="cond" in names, of_weight=names != {"cond"}
    )
    if found is None:
        return None
    named = zip(NAMES[1:], found, strict=True)
    return {name: tensor for name, tensor in named if tensor is not None and name in names}


def _by_kernel(
    name: str, step: Step, dependable: Callable[[Inputs], Found], implementation: Backend, inputs: Inputs
) -> Found | None:
    """What the fused kernel gives; None where there is none, or none that is trusted."""
    if not isinstance(implementation, Library) or not inputs.x.numel():
        return None
    kernels, kind = Fused(implementation), Kind.of(name, inputs)
    if dispatch.slower(_chip(kind.device), kind.layer(), inputs.x.shape[2] * inputs.x.shape[3]):
        return None
    if kind not in _trusted:
        if not _can_be_tried(inputs):
            return None
        first = inputs.first()
        ours = step(kernels, first)
        if ours is None:
            return None
        _trusted[kind] = _agree(kind, ours, dependable(first))
    return step(kernels, inputs) if _trusted[kind] else None


@functools.cache
def _chip(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _can_be_tried(inputs: Inputs) -> bool:
    """Not while a graph is captured, and not on numbers that say nothing."""
    capturing = inputs.x.is_cuda and torch.cuda.is_current_stream_capturing()
    tensors = (inputs.x[:1], inputs.cond[:1], inputs.x[:1] if inputs.grad is None else inputs.grad[:1])
    return not capturing and all(bool(t.isfinite().all()) and bool(t.any()) for t in tensors)


def _agree(kind: Kind, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Whether the two ways gave the same; says so in the log, or what is wrong."""
    shares = {name: _difference(ours[name], theirs[name]) for name in ours}
    allowed = UNITS * torch.finfo(kind.dtype).eps
    wrong = {name: share for name, share in shares.items() if not share <= allowed}
    if not wrong:
        LOGGER.info("%s: agrees with the dependable path, and serves", kind.words())
        return True
    worst = ", ".join(f"{name} by {share:.2g}" for name, share in wrong.items())
    words = (
        f"{kind.words()}: differs from the dependable path ({worst} of the largest value; at most {allowed:.2g} is "
        "rounding), so it is not used; please report it with the card, its driver and the compiler's version"
    )
    if chosen() == "require":
        raise KernelsMissing(words)
    warnings.warn(words, RuntimeWarning, stacklevel=2)
    return False


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest, as a share of the largest value; NaN where one is none."""
    largest = theirs.double().abs().max()
    return float((ours.double() - theirs.double()).abs().max() / largest) if largest else float(ours.abs().max())
