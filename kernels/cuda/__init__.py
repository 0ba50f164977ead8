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

from laconvnet.kernels import libraries, probe
from laconvnet.kernels.compilers import BuildError
from laconvnet.kernels.cuda import cache
from laconvnet.kernels.cuda.cache import Built
from laconvnet.kernels.cuda.compiler import build
from laconvnet.kernels.cuda.library import Library
from laconvnet.kernels.cuda.toolchain import Nvcc, architecture, find_nvcc

__all__ = ["BuildError", "Library", "Plan", "build", "find_nvcc", "outcome", "plan", "ready", "why_not", "words"]

_lock = threading.Lock()
_outcomes: dict[int, Library | str] = {}  # by device: the library, or why there is none
_warned: set[str] = set()


def ready(device: torch.device) -> Library | None:
    """The kernels for this device, compiled now if they are not yet; None where plain PyTorch has to serve.

    On a CUDA device None comes with one RuntimeWarning that names the reason.
    """
    if device.type != "cuda":
        return None
    found = outcome(device)
    if isinstance(found, Library):
        return found
    if found not in _warned:
        _warned.add(found)
        warnings.warn(
            f"LaConv on cuda:{_index(device)} runs in plain PyTorch, several times slower: {found}",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def outcome(device: torch.device) -> Library | str:
    """The kernels for this CUDA device, compiled and tried now if they are not yet, or why there are none."""
    index = _index(device)
    found = _outcomes.get(index)
    if found is None:
        with _lock:  # autograd calls from threads of its own
            found = _outcomes.get(index)
            if found is None:
                found = _outcomes[index] = _prepare(index)
    return found


def why_not(device: torch.device) -> str | None:
    """Why `ready` gave None for this device; None where it gave the kernels or was never asked."""
    if device.type != "cuda":
        return f"{device} is no CUDA device"
    found = _outcomes.get(_index(device))
    return found if isinstance(found, str) else None


def words(device: torch.device) -> str:
    """One line for people, where `outcome` gave the kernels."""
    found = outcome(device)
    assert isinstance(found, Library)
    return f"CUDA kernels {found.path}, tried on {device}"


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _prepare(index: int) -> Library | str:
    try:
        found = plan(torch.cuda.get_device_capability(index))
        if found.wanted is None or found.reason:
            return found.reason
        library = _load(found.built or build([found.wanted], found.nvcc))
    except (BuildError, OSError) as error:
        return str(error)
    if torch.cuda.is_current_stream_capturing():
        return library  # nothing may wait for the device now; what is captured is not launched either
    failed = probe.failure(library, torch.device("cuda", index))
    return f"{library.path}: {failed}" if failed else library


def _load(built: Built) -> Library:
    """The library, one object for all devices that it serves. Raises OSError."""
    for known in _outcomes.values():
        if isinstance(known, Library) and known.path == built.library:
            return known
    return Library(built.library)


@dataclass(frozen=True)
class Plan:
    """What `ready` would do for a device: load `built`, or compile for `wanted` by `nvcc`, or neither, for `reason`."""

    wanted: str | None
    built: Built | None
    nvcc: Nvcc | None
    reason: str
    damaged: str | None = None  # what is wrong with a library that is there and not taken

    @property
    def fast(self) -> bool:
        """Whether kernels will run, as far as is known before they are compiled."""
        return self.built is not None or not self.reason

    def words(self) -> str:
        """One line for people."""
        if self.built is not None:
            return f"CUDA kernels, built, checksum ok: {self.built.words()}"
        if self.nvcc is not None and not self.reason:
            damaged = f"; {self.damaged}" if self.damaged else ""
            by = f"compiled by nvcc {self.nvcc.version} at first use, or by `laconvnet kernels build`"
            return f"CUDA kernels, {by}{damaged}"
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
    damaged = cache.damage(source) if built is None else None
    reason = ""
    if built is None and nvcc is None:
        reason = "no nvcc to compile the kernels; install CUDA's or the Python package nvidia-cuda-nvcc"
        reason += f"; {damaged}" if damaged else ""
    elif built is None and nvcc is not None:
        failed = libraries.failure(cache.key([wanted], source, nvcc.version))
        if failed:
            reason = libraries.refused(failed)
    return Plan(wanted, built, nvcc, reason, damaged)
