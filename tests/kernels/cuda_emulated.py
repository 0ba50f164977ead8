"""The kernel library compiled for the CPU (emulation.h), behind the same Python: what the tests of the kernels run."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from laconvnet.kernels.cuda import Library, cache
from laconvnet.kernels.cuda.compiler import Unit, units
from tests.kernels import compilers

HERE = Path(__file__).parent
FLAGS = ("-O1", "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fvisibility=hidden")


class OnCpu(Library):
    """The library without CUDA's devices and streams around it."""

    def _code(self, name: str, arguments: ctypes.Structure, device: torch.device) -> int:
        return int(self._function(name)(ctypes.byref(arguments), ctypes.c_void_p(None)))


def build_emulated(folder: Path, wanted: Sequence[Unit] | None = None) -> Path:
    """Compiles these units of the kernel library by the C++ compiler, by default all."""
    compiler = compilers.gxx()

    def compiled(one: Unit) -> Path:
        path = folder / f"{one.name}.o"
        source = cache.SOURCES / one.source
        subprocess.run([compiler, *FLAGS, f"-I{HERE}", *one.macros, "-xc++", "-c", source, "-o", path], check=True)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, units() if wanted is None else wanted))
    path = folder / "liblaconv_emulated.so"
    subprocess.run([compiler, "-shared", "-o", path, *objects], check=True)
    return path
