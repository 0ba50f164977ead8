"""Compiles the C++ kernel on first use and keeps it, once per source, compiler and kind of processor."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from laconvnet.files import publishing
from laconvnet.kernels.cuda.cache import cache_folder

SOURCES = Path(__file__).resolve().parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread")
SECONDS = 300


class BuildError(Exception):
    """The kernel cannot be had on this machine; the message says why."""


def compiler() -> str:
    """The C++ compiler: the environment variable CXX, else the first of `COMPILERS` that is installed."""
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        if found := shutil.which(name):
            return found
    raise BuildError(f"CXX: {named}: no such program" if named else f"no C++ compiler ({', '.join(COMPILERS)}; or CXX)")


def library() -> ctypes.CDLL:
    """The compiled kernel, from the cache where it is there. Raises BuildError."""
    program = compiler()
    path = library_path(program)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Several processes may come here at once: each writes its own file, the last to rename wins.
            with publishing(path) as own:
                own.touch()  # a cache that must not be written to raises here; the compiler would only fail
                _compile(program, own)
        return ctypes.CDLL(str(path))
    except PermissionError:
        with tempfile.TemporaryDirectory() as own:
            target = Path(own) / path.name
            _compile(program, target)
            return ctypes.CDLL(str(target))
    except OSError as error:
        raise BuildError(f"{path}: {error}") from error


def library_path(program: str) -> Path:
    """The path of the kernel that this compiler makes, or has made, for this machine."""
    return cache_folder() / "cpu" / f"dynamic_conv-{_fingerprint(program)}.so"


def _compile(program: str, target: Path) -> None:
    command = [program, *FLAGS, _tuned(), str(SOURCES / "dynamic_conv.cpp"), "-o", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{program}: not done after {SECONDS} s") from error
    if done.returncode:
        output = (done.stderr.strip() or "said nothing").splitlines()
        raise BuildError(f"{' '.join(command)}: exit code {done.returncode}: {output[0]}")


def _tuned() -> str:
    return "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"


def _fingerprint(program: str) -> str:
    """A name that differs where another file is needed: a home folder may be shared by unlike machines."""
    real = Path(program).resolve()
    sources = sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")])
    machine = [platform.machine(), str(real), str(real.stat().st_mtime_ns), _processor()]
    parts = [*(path.read_text() for path in sources), *FLAGS, *machine]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))
