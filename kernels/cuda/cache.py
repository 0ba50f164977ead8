"""The folder that keeps built libraries: found by what they were made from, published whole, built by one process."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from laconvnet.files import read_object

SOURCES = Path(__file__).resolve().parent
LIBRARY, MANIFEST, LOG = "liblaconv.so", "manifest.json", "compiler.txt"
# A build takes half a minute on two cores; one that has not ended after this was stopped or hangs.
LOCK_SECONDS = 600.0


class BuildError(RuntimeError):
    """The library could not be built: one line that says why and names the file of the compiler's output, if any."""


@dataclass(frozen=True)
class Built:
    """A built library: its folder, and what it was made from and by."""

    folder: Path
    architectures: tuple[str, ...]
    source: str
    nvcc: str

    @property
    def library(self) -> Path:
        return self.folder / LIBRARY


def cache_folder() -> Path:
    """LACONVNET_KERNEL_CACHE, else the user's cache folder by the XDG rule."""
    if os.environ.get("LACONVNET_KERNEL_CACHE"):
        return Path(os.environ["LACONVNET_KERNEL_CACHE"])
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home if home else Path.home() / ".cache") / "laconvnet" / "kernels"


def source_hash(sources: Path = SOURCES) -> str:
    """A hash of every source file, names included, and of the file that says how they are compiled."""
    digest = hashlib.sha256()
    found = [path for pattern in ("*.cu", "*.cuh", "*.h") for path in sources.rglob(pattern)]
    named = {path.relative_to(sources).as_posix(): path for path in found} | {"compiler.py": SOURCES / "compiler.py"}
    for name, path in sorted(named.items()):
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def key(architectures: Iterable[str], source: str, nvcc: str) -> str:
    """Name of the folder in the cache."""
    return f"{source}-{'+'.join(architectures)}-nvcc{nvcc}"


def find(architecture: str, source: str, nvcc: str | None) -> Built | None:
    """A library of these sources for this architecture, by this compiler, or by any where there is none (None)."""
    for path in sorted(cache_folder().glob(f"{source}-*/{MANIFEST}")):
        built = read(path.parent)
        if built and architecture in built.architectures and built.source == source and nvcc in (None, built.nvcc):
            return built
    return None


def read(folder: Path) -> Built | None:
    """The library of a folder; None where there is none."""
    try:
        found = read_object(folder / MANIFEST)
        built = Built(folder, tuple(found["architectures"]), found["source"], found["nvcc"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return built if built.library.is_file() else None


def write_manifest(folder: Path, built: Built) -> None:
    fields = asdict(built)
    del fields["folder"]
    (folder / MANIFEST).write_text(json.dumps(fields))


def failure_file(name: str) -> Path:
    """Where the compiler's output is kept after a failed build of this key."""
    return cache_folder() / f"{name}.failed.txt"


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Excludes other processes that build this key, for as long as it takes but LOCK_SECONDS at most.

    Raises BuildError naming the lock file where the wait was in vain.
    """
    path = cache_folder() / f".{name}.lock"
    end = time.monotonic() + LOCK_SECONDS
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise BuildError(f"{path}: another process has held this lock for {LOCK_SECONDS:.0f} s") from error
                time.sleep(0.1)
        yield
