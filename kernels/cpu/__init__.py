"""The CPU backend: the C++ kernel of `dynamic_conv.cpp` where a compiler is there.

Against the tap loop in PyTorch it is as fast at 2x2 pixels and up to nine times as fast at 52x52 (float32); without a
compiler the tap loop serves, after one warning.
"""

from __future__ import annotations

import functools
import warnings
from types import ModuleType

import torch

from laconvnet.kernels import probe
from laconvnet.kernels.cpu.build import BuildError

__all__ = ["BuildError", "outcome", "ready"]


@functools.cache
def ready() -> ModuleType | None:
    """The backend, compiled on the first call of the first process; None, after a warning, where that failed."""
    found = outcome()
    if isinstance(found, str):
        warnings.warn(f"laconv: plain PyTorch serves the CPU, several times slower: {found}", stacklevel=2)
        return None
    return found


@functools.cache
def outcome() -> ModuleType | str:
    """The backend, compiled now if it is not yet, or why there is none."""
    from laconvnet.kernels.cpu import native

    try:
        native.library()
    except BuildError as error:
        return str(error)
    return probe.failure(native, torch.device("cpu")) or native


def words() -> str:
    """One line for people, where `outcome` gave the backend."""
    from laconvnet.kernels.cpu import native

    return f"C++ kernel {native.library()._name}, tried"
