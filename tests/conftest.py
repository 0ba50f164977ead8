"""Which files begin first, and why tests are skipped, a line a reason.

What one test has chosen for its process is gone for the next.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A slow file that begins last keeps one worker busy long after the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


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


@pytest.fixture
def reaching_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the disk, in order: `sync NAME` and `rename to NAME`, of a temporary by the name it is to have."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(number: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{number}")).name
        done.append("sync " + re.sub(r"^\.partial\.[0-9a-f]{8}\.", "", name))
        sync(number)

    def renamed(old: Path, new: Path) -> None:
        done.append(f"rename to {new.name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    return done
