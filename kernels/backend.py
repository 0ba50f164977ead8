"""The choice of the backend: the fastest that is there for a tensor's device and type, or what `choose` has settled.

A backend is a module with three functions:

    dynamic_conv(x, filters, kernel_size, groups, interleaved) -> out
    dynamic_conv_backward(grad, x, filters, kernel_size, groups, interleaved) -> (grad_x, grad_filters)
    dropout_(filters, seed, first_image, p)        in place; the mask is a function of (seed, image, element) alone

Results have the shape and memory format of x and of the filters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from laconvnet.kernels import cpu, cuda, plain


class Backend(Protocol):
    """The three functions; shapes are those of `kernels.plain.taps`, tensors of one call share device and type."""

    def dynamic_conv(self, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool) -> Tensor:
        """v2 Eq. 2: x (B, C, H, W), filters (B, k*k*g, H, W) -> (B, C, H, W)."""
        ...

    def dynamic_conv_backward(
        self, grad: Tensor, x: Tensor, filters: Tensor, kernel_size: int, groups: int, interleaved: bool
    ) -> tuple[Tensor, Tensor]:
        """The gradients of x (B, C, H, W) and filters (B, k*k*g, H, W), from that of the output, (B, C, H, W)."""
        ...

    def dropout_(self, filters: Tensor, seed: Tensor, first_image: int, p: float) -> None:
        """Zeroes filters (B, k*k*g, H, W) with probability p, scales the others by 1 / (1 - p); seed: one integer."""
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


def computing_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type that filters and images of a chunk are held in: half types have no fast arithmetic on a CPU."""
    return torch.float32 if device.type == "cpu" and dtype != torch.float64 else dtype
