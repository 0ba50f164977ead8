"""Finds CUDA's compiler, and the machine code that a device needs."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path

# The one whose intermediate code (PTX) goes into every library: any later device can compile that for itself.
OLDEST = "80"
ARCHITECTURES = (OLDEST, "90a", "100")
# What a compiler is taken to know, but for what it refuses, where it does not tell.
USUAL = (OLDEST, "86", "87", "89", "90", "90a", "100")
_BY_MAJOR = {8: OLDEST, 9: "90a", 10: "100"}


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler: path, version such as 13.0.88."""

    path: Path
    version: str

    @property
    def release(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def link_options(self) -> tuple[str, ...]:
        """Where the CUDA runtime of the package lies: beside its compiler, which looks for it elsewhere (lib64)."""
        folder = self.path.resolve().parents[1] / "lib"
        return (f"-L{folder}",) if (folder / "libcudart_static.a").is_file() else ()

    def architectures(self) -> frozenset[str]:
        """What it makes machine code for, such as 80, 90 and 90a, by its own account; empty where it gives none."""
        words = ""
        for question in ("--list-gpu-code", "--help"):  # the first knows no 90a, the second comes with all versions
            try:
                words += subprocess.run(
                    [self.path, question], capture_output=True, text=True, timeout=60, check=False
                ).stdout
            except (OSError, subprocess.TimeoutExpired):
                continue
        return frozenset(re.findall(r"\bsm_(\d+[a-z]?)\b", words))


def find_nvcc() -> Nvcc | None:
    """The compiler under CUDA_HOME, on PATH, of the Python package nvidia-cuda-nvcc, or under /usr/local/cuda."""
    for path in _candidates():
        if not os.access(path, os.X_OK) or not path.is_file():
            continue
        try:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        version = re.search(r"\bV(\d+\.\d+\.\d+)", done.stdout)
        if done.returncode == 0 and version:
            return Nvcc(path, version[1])
    return None


def _candidates() -> list[Path]:
    found = [Path(os.environ["CUDA_HOME"], "bin", "nvcc")] if os.environ.get("CUDA_HOME") else []
    on_path = shutil.which("nvcc")
    found += [Path(on_path)] if on_path else []
    try:
        files = importlib.metadata.files("nvidia-cuda-nvcc") or []
        found += [Path(str(file.locate())) for file in files if file.parts[-2:] == ("bin", "nvcc")]
    except importlib.metadata.PackageNotFoundError:
        pass
    return [*found, Path("/usr/local/cuda/bin/nvcc")]


def architecture(capability: tuple[int, int]) -> str | None:
    """What to compile for a device of this compute capability; None: it is too old, bfloat16 begins with 8.0.

    Code of a major version runs on its minor versions; a device of a later one compiles the PTX of the oldest.
    """
    major, _ = capability
    return None if major < min(_BY_MAJOR) else _BY_MAJOR.get(major, OLDEST)


def codes(architectures: Iterable[str], known: Set[str] | None = None) -> list[str]:
    """The machine code (sm_90a) and PTX (compute_80) that a library for these architectures holds.

    PTX of the oldest is for every later device. Where the compiler makes code for the `known` alone, an architecture
    that it does not know gets what is nearest: the code without the features of that chip alone (90 for 90a), or the
    newest PTX before it, which the driver compiles. Raises ValueError naming the architecture if there is neither.
    """
    found: list[str] = []
    for name in architectures:
        found += [f"sm_{name}"] if known is None or name in known else _nearest(name, known)
    plain = {OLDEST} if known is None else {name for name in known if name.isdigit() and int(name) >= int(OLDEST)}
    if plain:
        found.append(f"compute_{min(plain, key=int)}")
    return list(dict.fromkeys(found))


def _nearest(name: str, known: Set[str]) -> list[str]:
    number = int(name.rstrip("abcdefghijklmnopqrstuvwxyz"))
    if str(number) in known:
        return [f"sm_{number}"]
    before = [int(other) for other in known if other.isdigit() and int(OLDEST) <= int(other) <= number]
    if not before:
        raise ValueError(f"sm_{name}")
    return [f"compute_{max(before)}"]
