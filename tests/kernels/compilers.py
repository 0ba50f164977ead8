"""The compilers that tests of the kernels need. Where one is missing they are skipped, saying why; under
LACONVNET_REQUIRE_NVCC=1, which `.ci/run` sets, they fail.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from laconvnet.kernels.cpu import build
from laconvnet.kernels.cuda import toolchain
from laconvnet.kernels.cuda.toolchain import Nvcc

REQUIRE = "LACONVNET_REQUIRE_NVCC"


def missing(what: str) -> NoReturn:
    """Skips the test for want of a compiler, or fails it where none may be missing."""
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{what}; {REQUIRE}=1 asks for it: `pip install -c constraints.txt -e .[dev]` brings CUDA's tools")
    pytest.skip(what)


def nvcc() -> Nvcc:
    """CUDA's compiler."""
    return toolchain.find_nvcc() or missing(
        "no nvcc under CUDA_HOME, on PATH or in a package: no kernel can be compiled"
    )


def pinned_nvcc() -> Path:
    """The compiler that budgets of machine code are stated for: that of the package, else any."""
    return next(iter(_packaged("nvidia-cuda-nvcc", "nvcc")), None) or nvcc().path


def gxx() -> str:
    """The C++ compiler that the emulation of the CUDA kernels is built by."""
    return shutil.which("g++") or missing("g++ is not installed: the kernels cannot be compiled for the CPU")


def cxx() -> str:
    """The C++ compiler of the CPU kernel."""
    try:
        return build.compiler()
    except build.BuildError as error:
        missing(str(error))


def nvdisasm() -> Path:
    """The disassembler: of the package nvidia-cuda-nvdisasm, on PATH, or beside nvcc."""
    beside = toolchain.find_nvcc()
    candidates = _packaged("nvidia-cuda-nvdisasm", "nvdisasm")
    candidates += [Path(found)] if (found := shutil.which("nvdisasm")) else []
    candidates += [beside.path.resolve().with_name("nvdisasm")] if beside else []
    for path in candidates:
        if os.access(path, os.X_OK):
            return path
    missing("no nvdisasm in the package nvidia-cuda-nvdisasm, on PATH or beside nvcc: no machine code can be read")


def _packaged(package: str, program: str) -> list[Path]:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in files if file.parts[-2:] == ("bin", program)]
