"""Compiles the C++ kernel on first use and keeps it, once per source, kind of processor and compiler."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from laconvnet.kernels import libraries
from laconvnet.kernels.compilers import BuildError, run
from laconvnet.kernels.libraries import Stored

__all__ = ["BuildError", "build", "compiler", "damage", "failure", "find", "library"]

SOURCES = Path(__file__).resolve().parent
LIBRARY = "liblaconv_cpu.so"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread")
SECONDS = 300
CPUINFO = Path("/proc/cpuinfo")


def compiler() -> str:
    """The C++ compiler: the environment variable CXX, else the first of `COMPILERS` that is installed."""
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        if found := shutil.which(name):
            return found
    raise BuildError(f"CXX: {named}: no such program" if named else f"no C++ compiler ({', '.join(COMPILERS)}; or CXX)")


def library() -> ctypes.CDLL:
    """The compiled kernel, from the cache where it is there. Raises BuildError."""
    stored = find() or build()
    try:
        return ctypes.CDLL(str(stored.path))
    except OSError as error:
        raise BuildError(f"{stored.path}: {error}") from error


def find() -> Stored | None:
    """The library for this machine, by its compiler, or by any where it has none; None where it has to be compiled."""
    return next(libraries.search(_pattern(), LIBRARY), None)


def damage() -> str | None:
    """What is wrong with a library for this machine that is there and will not be loaded; None where none is."""
    return libraries.damage(_pattern(), LIBRARY)


def failure() -> str | None:
    """Why this machine's compiler is not asked again, where it has refused the sources. Raises BuildError."""
    failed = libraries.failure(_name(compiler()))
    return libraries.refused(failed) if failed else None


def build(retry: bool = False) -> Stored:
    """The library for this machine, from the cache or built into it; `retry` as in `libraries.obtain`.

    Raises BuildError.
    """
    program = compiler()

    def make(folder: Path) -> dict[str, Any]:
        sources = [str(SOURCES / "dynamic_conv.cpp"), "-o", str(folder / LIBRARY)]
        run([program, *FLAGS, _tuned(), *sources], SECONDS)
        return {"compiler": program, "processor": _processor(), "flags": [*FLAGS, _tuned()]}

    return libraries.obtain(_name(program), LIBRARY, make, retry)


def _pattern() -> str:
    """Of the folders whose libraries this machine may load."""
    try:
        return _name(compiler())
    except BuildError:
        return f"cpu-{_machine()}-*"


def _name(program: str) -> str:
    """Of the folder: it differs for another machine and another compiler."""
    real = Path(program).resolve()
    return f"cpu-{_machine()}-{_fingerprint(str(real), str(real.stat().st_mtime_ns))}"


def _tuned() -> str:
    return "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"


def _machine() -> str:
    """Differs where other machine code is needed: a home folder may be shared by unlike machines."""
    sources = sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")])
    return _fingerprint(*(path.read_text() for path in sources), *FLAGS, platform.machine(), _processor())


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's name and the instructions that it has."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))
