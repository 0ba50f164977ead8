"""What compilers make of the kernels for their tests, once for all files, processes and runs that ask for the same."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from laconvnet.kernels.cuda import cache
from laconvnet.kernels.cuda.compiler import Unit, units
from tests.kernels import compilers

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / "build" / "tests-of-kernels"
# Under the emulation.
FLAGS = ("-O1", "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fvisibility=hidden")


def compiled(name: str, command: Sequence[str | Path], place: Path = KEPT) -> Path:
    """What the command of a compiler writes for `-o`; what it prints stands beside, with the suffix .txt.

    It is found again by the kernels' sources, the compiler's version and the words of the command.
    """
    words = [*map(str, command)]
    key = hashlib.sha256(repr([_sources(), _version(words[0]), words]).encode()).hexdigest()[:16]
    path = place / f"{key}-{name}"
    place.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_suffix(".partial")
            done = subprocess.run([*words, "-o", partial], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
            path.with_suffix(".txt").write_text(done.stdout + done.stderr)
            partial.rename(path)
    return path


def library_cache() -> Path:
    """A cache for whole libraries (LACONVNET_KERNEL_CACHE), one for all that the code says of how they are made."""
    files = (path.read_bytes() for path in sorted(cache.SOURCES.parent.rglob("*.py")))
    return KEPT / f"{hashlib.sha256(b''.join(files)).hexdigest()[:16]}-libraries"


def emulated(folder: Path, wanted: Callable[[Unit], bool]) -> Path:
    """The units that are wanted as a library for the CPU (emulation.h), in this folder."""
    compiler = compilers.gxx()

    def object_of(unit: Unit) -> Path:
        flags = [*FLAGS, f"-I{HERE}", *unit.macros]
        return compiled(f"{unit.name}.o", [compiler, *flags, "-xc++", "-c", cache.SOURCES / unit.source])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(object_of, filter(wanted, units())))
    path = folder / "liblaconv_emulated.so"
    subprocess.run([compiler, "-shared", "-o", path, *objects], check=True)
    return path


@functools.cache
def _sources() -> str:
    """A hash of the kernels and of the emulation."""
    digest = hashlib.sha256(cache.source_hash().encode())
    for header in sorted(HERE.glob("*.h")):
        digest.update(header.read_bytes())
    return digest.hexdigest()


@functools.cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
