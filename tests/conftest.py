"""Why tests are skipped, a line a reason; what one test has chosen for its process is gone for the next."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The summary counts skips by place and reason: with one place for all, each reason is one line."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        report.longrepr = ("tests", None, report.longrepr[2])  # type: ignore[assignment]
    return report


@pytest.fixture(autouse=True)
def _kernels_chosen_anew() -> Iterator[None]:
    yield
    if backend := sys.modules.get("laconvnet.kernels.backend"):
        backend.choose("auto")
