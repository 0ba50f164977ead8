"""The kernel library under the emulation."""

from __future__ import annotations

import pytest

from tests.kernels.compiled import emulated
from tests.kernels.cuda_emulated import OnCpu


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> OnCpu:
    # The kernels of the MLP and the stem have libraries of their own, for their own tests alone.
    folder = tmp_path_factory.mktemp("library")
    return OnCpu(emulated(folder, lambda unit: not unit.source.startswith(("mlp/", "stem/"))))
