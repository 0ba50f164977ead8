"""The LaConv operator on NVIDIA GPUs: a library of CUDA kernels, compiled once for the machine and kept in a cache.

    library = cuda.ready(x.device)
    if library is not None: library.dynamic_conv(...), library.dynamic_conv_backward(...), library.dropout_(...)
    else: plain PyTorch, and `cuda.why_not(x.device)` says why

Nothing is compiled or loaded before the first `ready` of a CUDA device.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass

import torch

from laconvnet.kernels.cuda import cache
from laconvnet.kernels.cuda.cache import BuildError, Built
from laconvnet.kernels.cuda.compiler import build
from laconvnet.kernels.cuda.library import Library
from laconvnet.kernels.cuda.toolchain import Nvcc, architecture, find_nvcc

__all__ = ["BuildError", "Library", "Plan", "build", "find_nvcc", "plan", "ready", "why_not"]

_lock = threading.Lock()
_outcomes: dict[int, Library | str] = {}  # by device: the library, or why there is none


def ready(device: torch.device) -> Library | None:
    """The kernels for this device, compiled now if they are not yet; None where plain PyTorch has to serve.

    On a CUDA device None comes with one RuntimeWarning that names the reason.
    """
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    outcome = _outcomes.get(index)
    if outcome is None:
        with _lock:  # autograd calls from threads of its own
            outcome = _outcomes.get(index)
            if outcome is None:
                outcome = _outcomes[index] = _prepare(index)
    return outcome if isinstance(outcome, Library) else None


def why_not(device: torch.device) -> str | None:
    """Why `ready` gave None for this device; None where it gave the kernels or was never asked."""
    if device.type != "cuda":
        return f"{device} is no CUDA device"
    outcome = _outcomes.get(torch.cuda.current_device() if device.index is None else device.index)
    return outcome if isinstance(outcome, str) else None


def _prepare(index: int) -> Library | str:
    try:
        found = plan(torch.cuda.get_device_capability(index))
        if found.wanted is None:
            raise BuildError(found.reason)
        built = found.built or build([found.wanted], found.nvcc)
        for outcome in _outcomes.values():
            if isinstance(outcome, Library) and outcome.path == built.library:
                return outcome
        return Library(built.library)
    except (BuildError, OSError) as error:
        why = str(error)
        if why not in _outcomes.values():
            warnings.warn(
                f"LaConv on cuda:{index} runs in plain PyTorch, several times slower: {why}",
                RuntimeWarning,
                stacklevel=2,
            )
        return why


@dataclass(frozen=True)
class Plan:
    """What `ready` would do for a device: load `built`, or compile for `wanted` by `nvcc`, or neither, for `reason`."""

    wanted: str | None
    built: Built | None
    nvcc: Nvcc | None
    reason: str

    @property
    def fast(self) -> bool:
        """Whether kernels will run, as far as is known before they are compiled."""
        return self.built is not None or not self.reason

    def words(self) -> str:
        """One line for people."""
        if self.built is not None:
            return f"CUDA kernels, built: {self.built.library}"
        if self.nvcc is not None and not self.reason:
            return f"CUDA kernels, compiled by nvcc {self.nvcc.version} at first use, or by `laconvnet kernels build`"
        return f"plain PyTorch, several times slower: {self.reason}"


def plan(capability: tuple[int, int]) -> Plan:
    """What would be done for a device of this compute capability; compiles and loads nothing."""
    wanted = architecture(capability)
    if torch.version.hip is not None:
        return Plan(None, None, None, "this PyTorch is built for AMD's ROCm; the kernels are CUDA")
    if wanted is None:
        major, minor = capability
        return Plan(None, None, None, f"compute capability {major}.{minor} is below 8.0")
    nvcc = find_nvcc()
    source = cache.source_hash()
    built = cache.find(wanted, source, nvcc.version if nvcc else None)
    reason = ""
    if built is None and nvcc is None:
        reason = "no nvcc to compile the kernels; install CUDA's or the Python package nvidia-cuda-nvcc"
    elif built is None and nvcc is not None:
        failed = cache.failure_file(cache.key([wanted], source, nvcc.version))
        if failed.exists():
            reason = f"an earlier build failed: {failed}; `laconvnet kernels build` tries again"
    return Plan(wanted, built, nvcc, reason)
