"""The kernel library under the emulation, built once for all test files and processes."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from laconvnet.kernels.cuda.compiler import units
from tests.kernels.cuda_emulated import OnCpu, build_emulated


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> OnCpu:
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent  # which all workers share
    return OnCpu(_built_once(folder / "emulated"))


def _built_once(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    name = folder / "path"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not name.exists():
            # The kernels of these have libraries of their own, for their own tests alone.
            wanted = [unit for unit in units() if not unit.source.startswith(("mlp/", "stem/"))]
            name.write_text(str(build_emulated(folder, wanted)))
    return Path(name.read_text())
