"""The fused kernels as Python sees them: filters are made from the condition on the chip and never written.

Which shapes have one is the library's own knowledge: its entry points refuse the others, and then None comes back.
C interface: laconv.h.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from laconvnet.kernels.cuda.library import TYPES, Library
from laconvnet.kernels.dropout import threshold
from laconvnet.kernels.formats import channels_last, formatted
from laconvnet.kernels.recipe import PackedNorm, Recipe

NO_KERNEL = -3  # LACONV_NO_FUSED_KERNEL
KERNELS = {3: "k3", 7: "k7"}  # the entry points' last word, by kernel size
HALF_TYPES = (torch.float16, torch.bfloat16)
# Of laconv: kernel size, channels, condition, groups and packing of what `forward` takes packed. Known here as well,
# since what is kept for the gradients is decided by it, also where there is no library.
PACKED_SHAPES = ((3, 16, 64, 4, 8),)


class FusedArguments(ctypes.Structure):
    """laconv_fused_args."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "cond", "weight", "bias", "grad", "result", "grad_cond")),
        *((name, ctypes.c_void_p) for name in ("grad_weight", "grad_bias", "workspace")),
        ("workspace_bytes", ctypes.c_int64),
        ("keys", ctypes.c_void_p),
        ("threshold", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("batch", "height", "width", "channels", "condition", "groups")),
        ("kernel_size", ctypes.c_int64),
        ("scale", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("packing", ctypes.c_int64),
    )


def reads_packed(
    dtype: torch.dtype, channels: int, condition: int, packing: int, kernel_size: int, groups: int, interleaved: bool
) -> bool:
    """Whether a kernel takes the condition of x (B, channels, H, W) packed, in place of (B, condition, H, W)."""
    shape = (kernel_size, channels, condition, groups, packing)
    return dtype in HALF_TYPES and shape in PACKED_SHAPES and not interleaved


class Call:
    """One call's arguments, and the tensors they point to, which live as long: x (B, C, H, W) and so on (`Fused`)."""

    def __init__(self, x: Tensor, cond: Tensor, recipe: Recipe, norm: PackedNorm | None = None) -> None:
        batch, channels, height, width = x.shape
        self.tensors: list[Tensor] = []
        self.arguments = FusedArguments(
            batch=batch,
            height=height,
            width=width,
            channels=channels,
            condition=recipe.weight.shape[1],
            groups=recipe.groups,
            kernel_size=recipe.kernel_size,
        )
        self.give(x=channels_last(x), cond=channels_last(cond), weight=recipe.weight.contiguous())
        if recipe.bias is not None:
            self.give(bias=recipe.bias.contiguous())
        if norm is not None:
            scale, shift = norm.affine
            self.give(scale=scale, shift=shift)
            self.arguments.packing = norm.packing
        if recipe.dropout_p > 0.0:
            assert recipe.keys is not None
            self.give(keys=recipe.keys)
            self.arguments.threshold = threshold(recipe.dropout_p)

    def give(self, **tensors: Tensor) -> None:
        """Sets the addresses of these arguments, of any shape."""
        for name, tensor in tensors.items():
            self.tensors.append(tensor)
            setattr(self.arguments, name, tensor.data_ptr())


class Fused:
    """The fused kernels of a loaded library, on the current stream of their tensors' device; they return at once.

    x and grad (B, C, H, W), cond (B, M, H, W), of one half type; results have the memory format of their input.
    None is the answer where there is no kernel for the shape, the type or the device; a RuntimeError naming kernel,
    shapes and reason that of a kernel that could not do its work.
    """

    def __init__(self, library: Library) -> None:
        self.library = library

    def forward(self, x: Tensor, cond: Tensor, recipe: Recipe, norm: PackedNorm | None = None) -> Tensor | None:
        """v2 Eq. 1-3: (B, C, H, W). With `norm`, of float32, cond is the packed map (B, s*s*M, h, w)."""
        call, result = Call(x, cond, recipe, norm), _empty_like(x)
        call.give(result=result)
        return formatted(result, x) if self._run("forward", call, x, recipe) else None

    def grad_x(self, grad: Tensor, x: Tensor, cond: Tensor, recipe: Recipe) -> Tensor | None:
        """The gradient of x, (B, C, H, W)."""
        call, result = Call(x, cond, recipe), _empty_like(x)
        call.give(grad=channels_last(grad), result=result)
        return formatted(result, x) if self._run("grad_x", call, x, recipe) else None

    def grad_filters(
        self, grad: Tensor, x: Tensor, cond: Tensor, recipe: Recipe, of_cond: bool, of_weight: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
        """The gradients of cond (B, M, H, W), weight (k*k*g, M) and bias (k*k*g,), the last two in float32.

        Only those that are wanted are computed; that of bias comes with that of weight, whether there is one or not.
        """
        call = Call(x, cond, recipe)
        call.give(grad=channels_last(grad))
        grad_cond = grad_weight = grad_bias = None
        if of_cond:
            grad_cond = _empty_like(cond)
            call.give(grad_cond=grad_cond)
        if of_weight:
            grad_weight = recipe.weight.new_empty(recipe.weight.shape, dtype=torch.float32)
            grad_bias = grad_weight.new_empty(len(grad_weight))
            call.give(grad_weight=grad_weight, grad_bias=grad_bias)
            size = self._workspace(call, x, recipe)
            call.give(workspace=torch.empty(size, dtype=torch.uint8, device=x.device))
            call.arguments.workspace_bytes = size
        if not self._run("grad_filters", call, x, recipe):
            return None
        return None if grad_cond is None else formatted(grad_cond, cond), grad_weight, grad_bias

    def _workspace(self, call: Call, x: Tensor, recipe: Recipe) -> int:
        name = _entry("workspace", x, recipe)
        return 0 if name is None else self.library.bytes_needed(name, call.arguments)

    def _run(self, what: str, call: Call, x: Tensor, recipe: Recipe) -> bool:
        """Whether there was a kernel for it."""
        name = _entry(what, x, recipe)
        return name is not None and self.library.launched(name, call.arguments, x.device, unless=NO_KERNEL)


def _entry(what: str, x: Tensor, recipe: Recipe) -> str | None:
    kernel = KERNELS.get(recipe.kernel_size)
    if kernel is None or recipe.interleaved or x.dtype not in HALF_TYPES:
        return None
    return f"laconv_fused_{what}_{TYPES[x.dtype]}_{kernel}"


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.channels_last)
