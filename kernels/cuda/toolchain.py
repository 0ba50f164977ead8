"""Finds CUDA's compiler, and the machine code that a device needs."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# The one whose intermediate code (PTX) goes into every library: any later device can compile that for itself.
OLDEST = "80"
ARCHITECTURES = (OLDEST, "90a", "100")
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
