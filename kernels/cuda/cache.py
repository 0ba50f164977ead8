"""The CUDA libraries that are kept: found by what they were made from (how they are kept: `kernels.libraries`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from laconvnet.kernels import libraries
from laconvnet.kernels.compilers import BuildError
from laconvnet.kernels.folders import cache_folder
from laconvnet.kernels.libraries import MANIFEST, Stored

__all__ = ["LIBRARY", "LOG", "MANIFEST", "SOURCES", "BuildError", "Built", "cache_folder", "find", "key", "source_hash"]

SOURCES = Path(__file__).resolve().parent
SOURCE_KINDS = ("*.cu", "*.cuh", "*.h")
LIBRARY, LOG = "liblaconv.so", "compiler.txt"


@dataclass(frozen=True)
class Built:
    """A built library: its folder, and what it was made from and by.

    `architectures` are those that it serves (such as 90a), `codes` what is in it for them (such as sm_90a, compute_80).
    """

    folder: Path
    architectures: tuple[str, ...]
    source: str
    nvcc: str
    codes: tuple[str, ...] = ()
    checksum: str = ""  # SHA-256 of the library

    @property
    def library(self) -> Path:
        return self.folder / LIBRARY

    def words(self) -> str:
        """One line for people."""
        return f"{self.library} ({', '.join(self.codes)}, by nvcc {self.nvcc})"


def source_hash(sources: Path = SOURCES) -> str:
    """A hash of every source file in any subfolder, names included, and of the file that says how they are compiled."""
    digest = hashlib.sha256()
    names = sorted(path.relative_to(sources).as_posix() for kind in SOURCE_KINDS for path in sources.rglob(kind))
    files = {**{name: sources / name for name in names}, "compiler.py": SOURCES / "compiler.py"}
    for name, path in files.items():
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def key(architectures: Iterable[str], source: str, nvcc: str) -> str:
    """Name of the folder in the cache."""
    return f"{source}-{'+'.join(architectures)}-nvcc{nvcc}"


def find(architecture: str, source: str, nvcc: str | None) -> Built | None:
    """A library of these sources for this architecture, by this compiler, or by any where there is none (None)."""
    for stored in libraries.search(f"{source}-*", LIBRARY):
        found = of(stored)
        if found and architecture in found.architectures and found.source == source and nvcc in (None, found.nvcc):
            return found
    return None


def of(stored: Stored) -> Built | None:
    """What a library's manifest says; None where it is not the manifest of such a library."""
    kept = stored.made_from
    try:
        architectures, codes = tuple(kept["architectures"]), tuple(kept["codes"])
        return Built(stored.folder, architectures, kept["source"], kept["nvcc"], codes, kept["sha256"])
    except (KeyError, TypeError):
        return None


def damage(source: str) -> str | None:
    """What is wrong with a library of these sources that is there and will not be loaded; None where none is."""
    return libraries.damage(f"{source}-*", LIBRARY)
