from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def refcoco(sets: dict[str, Path]) -> Path:
    return sets["refcoco"]


@pytest.fixture(scope="session")
def clevr(sets: dict[str, Path]) -> Path:
    return sets["clevr"]
