"""The process that commands are forked from, one for a file of tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.faults.commands import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not shutil.which("cc"):
        pytest.skip("no C compiler for the library that makes calls fail")
    found = Server(tmp_path_factory.mktemp("server"))
    yield found
    found.close()
