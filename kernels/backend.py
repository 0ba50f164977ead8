"""The choice of the backend: the fastest that is there for a tensor's device and type, or what `choose` has settled.

A backend is a module with these functions:

    filter_layout(x, kernel_size, groups, interleaved)    in which memory layout filters for x serve it best
    dynamic_conv(x, filters, kernel_size, groups, interleaved, layout, out) -> out
    dynamic_conv_backward(grad, x, filters, kernel_size, groups, interleaved, layout, out) -> (grad_x, grad_filters)
    grad_x(grad, filters, kernel_size, groups, interleaved, layout, out) -> grad_x              one of the two alone
    grad_filters(grad, x, kernel_size, groups, interleaved, layout) -> grad_filters             the other
    dropout_(filters, keys, kernel_size, groups, p)       in place, by the rule of `kernels.dropout`
    dropout(values, keys, p) -> values of any shape, contiguous, by the same rule
    half_types() -> those that it computes in on a CPU; one that does not have it computes in float32 there

Results have the shape and memory format of x and of the filters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from laconvnet.kernels import cpu, cuda, plain
from laconvnet.kernels.filter_layout import FilterLayout


class Backend(Protocol):
    """Its functions; shapes are those of `kernels.plain.taps`, tensors of one call share device and type."""

    def filter_layout(self, x: Tensor, kernel_size: int, groups: int, interleaved: bool) -> FilterLayout:
        """In which memory layout filters for images like x (B, C, H, W) serve it best."""
        ...

    def dynamic_conv(
        self,
        x: Tensor,
        filters: Tensor,
        kernel_size: int,
        groups: int,
        interleaved: bool,
        layout: FilterLayout = FilterLayout.PIXELS,
        out: Tensor | None = None,
    ) -> Tensor:
        """v2 Eq. 2: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W), in `out`, of the type of x, if given.

        `layout` tells of padded rows, (B, g*k*row, H, W), that `filter_layout` asked for; else any format will do.
        """
        ...

    def dynamic_conv_backward(
        self,
        grad: Tensor,
        x: Tensor,
        filters: Tensor,
        kernel_size: int,
        groups: int,
        interleaved: bool,
        layout: FilterLayout = FilterLayout.PIXELS,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The gradients of x (B, C, H, W), in `out` if given, and of filters, from that of the output, (B, C, H, W)."""
        ...

    def grad_x(
        self,
        grad: Tensor,
        filters: Tensor,
        kernel_size: int,
        groups: int,
        interleaved: bool,
        layout: FilterLayout = FilterLayout.PIXELS,
        out: Tensor | None = None,
    ) -> Tensor:
        """The gradient of x (B, C, H, W) alone, in the memory format of `grad` or in `out`."""
        ...

    def grad_filters(
        self,
        grad: Tensor,
        x: Tensor,
        kernel_size: int,
        groups: int,
        interleaved: bool,
        layout: FilterLayout = FilterLayout.PIXELS,
    ) -> Tensor:
        """The gradient of the filters alone, (B, k*k*g, H, W) in any format, or in padded rows if `layout` says so."""
        ...

    def dropout_(self, filters: Tensor, keys: Tensor, kernel_size: int, groups: int, p: float) -> None:
        """Drops values of filters (B, k*k*g, H, W) in place; keys (B,) int64 on the same device, one an image."""
        ...

    def dropout(self, values: Tensor, keys: Tensor, p: float) -> Tensor:
        """`values` (B, ...) with some dropped, contiguous; keys (B,) int64 on the same device, one an image."""
        ...


PLAIN = cast(Backend, plain)


# auto: compiled kernels where they can be had, else plain PyTorch after one warning; require: an error in place of the
# warning; plain: plain PyTorch.
Choice = Literal["auto", "require", "plain"]
_choice: Choice = "auto"


class KernelsMissing(RuntimeError):
    """Compiled kernels are required and cannot be had: the message names the device and the reason."""


def choose(choice: Choice) -> None:
    """What `backend` takes from now on, everywhere in this process."""
    global _choice
    _choice = choice


def chosen() -> Choice:
    """What `choose` was told."""
    return _choice


def backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """The backend for tensors of this device and type; doubles are for checks, which plain PyTorch serves on a CPU.

    Raises KernelsMissing where compiled kernels are required and cannot be had.
    """
    if _choice == "plain" or (device.type != "cuda" and dtype == torch.float64):
        return PLAIN
    if _choice == "require":
        found = _outcome(device)
        if isinstance(found, str):
            raise KernelsMissing(f"laconv on {device}: compiled kernels are required: {found}")
        return found
    return cast(Backend, (cuda.ready(device) if device.type == "cuda" else cpu.ready()) or PLAIN)


@dataclass(frozen=True)
class InUse:
    """What runs on a device: compiled kernels or not (then `reason`), and a line for people."""

    compiled: bool
    words: str
    reason: str = ""

    @property
    def kind(self) -> str:
        """One word for tables: compiled or plain."""
        return "compiled" if self.compiled else "plain"


def in_use(device: torch.device) -> InUse:
    """What `backend` takes for the numbers of a training on this device; compiles, loads and tries it if need be."""
    if _choice == "plain":
        return InUse(False, "plain PyTorch, as it was chosen", "plain PyTorch was chosen")
    found = _outcome(device)
    if isinstance(found, str):
        return InUse(False, f"plain PyTorch, several times slower: {found}", found)
    return InUse(True, cuda.words(device) if device.type == "cuda" else cpu.words())


def _outcome(device: torch.device) -> Backend | str:
    """The compiled backend, or why there is none."""
    return cast("Backend | str", cuda.outcome(device) if device.type == "cuda" else cpu.outcome())


def computing_dtype(backend: Backend, device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type that filters and images of a chunk are held in.

    On a CPU that is float32 for a half type, unless the backend names it among its `half_types`: few processors have
    fast arithmetic for one.
    """
    if device.type != "cpu" or dtype in (torch.float64, torch.float32):
        return dtype
    half_types: Callable[[], Collection[torch.dtype]] = getattr(backend, "half_types", tuple)
    return dtype if dtype in half_types() else torch.float32


def gradients(
    backend: Backend,
    grad: Tensor,
    x: Tensor | None,
    filters: Tensor | None,
    kernel_size: int,
    groups: int,
    interleaved: bool,
    layout: FilterLayout = FilterLayout.PIXELS,
    out: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Those of x (B, C, H, W), in `out` if given, and of filters; each only where its need is there: filters, or x."""
    sizes = (kernel_size, groups, interleaved)
    if x is not None and filters is not None:
        return backend.dynamic_conv_backward(grad, x, filters, *sizes, layout, out)
    return (
        None if filters is None else backend.grad_x(grad, filters, *sizes, layout, out),
        None if x is None else backend.grad_filters(grad, x, *sizes, layout),
    )
