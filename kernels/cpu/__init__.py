"""The CPU backend: the C++ kernel of `dynamic_conv.cpp` where a compiler is there.

Against the tap loop in PyTorch it is as fast at 2x2 pixels and up to nine times as fast at 52x52 (float32); without a
compiler the tap loop serves, after one warning.
"""

from __future__ import annotations

import functools
import warnings
from types import ModuleType

from laconvnet.kernels.cpu.build import BuildError


@functools.cache
def ready() -> ModuleType | None:
    """The backend, compiled on the first call of the first process; None, after a warning, where that failed."""
    from laconvnet.kernels.cpu import native

    try:
        native.library()
    except BuildError as error:
        warnings.warn(f"laconv: plain PyTorch serves the CPU, several times slower: {error}", stacklevel=2)
        return None
    return native
