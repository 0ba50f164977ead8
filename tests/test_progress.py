from __future__ import annotations

import os
import pty
import sys
import termios

import pytest

from laconvnet import progress
from laconvnet.progress import Progress


def test_a_pipe_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    with Progress(total=100, desc="shards", unit="image") as bar:
        vars(bar)["_time"] = lambda: now
        bar.start_t = bar.last_print_t = now
        for _ in range(98):  # a second each
            now += 1
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    counts = [int(line.split()[1].partition("/")[0]) for line in lines]
    assert counts == [15, 30, 45, 60, 75, 90, 98]  # the last one at the end
    assert all(line.startswith("shards: ") and "/100 image, " in line and "left" in line for line in lines)


def test_what_is_short_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(Progress(range(5), "short", unit="row")) == [0, 1, 2, 3, 4]
    with Progress(total=3, desc="off", disable=True) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""


def test_each_work_begins_and_ends_for_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    for name in ("a", "b"):
        assert sum(Progress([1, 2], name, unit="row", leave=False)) == 3
    output = capsys.readouterr().err
    assert "\r" not in output
    assert [line.split(",")[0] for line in output.splitlines()] == [
        f"{name}: {count}/2 row" for name in ("a", "b") for count in (0, 1, 2)
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert sum(Progress([1, 2, 3], "shards", unit="image")) == 6
        shown = ""
        while "100%" not in shown:
            shown += os.read(ours, 65536).decode()
    os.close(ours)
    assert "\rshards:   0%|" in shown
    assert "shards: 100%|" in shown
