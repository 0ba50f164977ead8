"""A trained run, for the commands that ask one."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.launch import cli
from tests.pipeline.explain.asked import TINY


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, sets: dict[str, Path]) -> Path:
    """A run of few steps on RefCOCO's layout."""
    folder = tmp_path_factory.mktemp("explained") / "run"
    of_data = ["--data.folder", str(sets["refcoco"]), "--schedule.epochs", "0.5"]
    line = ["train", "--run", str(folder), "--config", str(TINY), *of_data]
    assert cli.main(line) == 0
    return folder
