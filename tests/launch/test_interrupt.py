"""A launcher in a process of its own, interrupted and killed: nothing is left running, the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from laconvnet.launch.control import cancel
from laconvnet.launch.executor import launch
from laconvnet.launch.graph.stages import plan
from laconvnet.launch.local import controller
from laconvnet.launch.status import status
from laconvnet.pipeline.errors import ConfigError
from tests.launch.any_line import LINE

Write = Callable[[str], Path]
Events = Callable[[], list[str]]
Launcher = tuple[Path, subprocess.Popen[str]]
Until = Callable[[Callable[[], object], str], None]
# SIGINT as from a terminal: what starts the tests in the background has it ignored, and processes inherit that.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.launch.any_line import LINE
from laconvnet.launch import executor, job
job.ENTRY = "stage_entry:main"
sys.exit(executor.launch(sys.argv[1], LINE))
"""
GRAPH = """
a: {{run: [linger, {work}/gate], processes: 2, threads: 1}}
b: {{run: [write, "{{here}}/f", b, "{{a}}"], threads: 1}}
"""


@pytest.fixture
def launcher(work: Path, stages: Write, events: Events, until: Until) -> Iterator[Launcher]:
    """A launch whose first stage hangs: two ranks, each with a worker of its own."""
    file = stages(GRAPH.format(work=work))
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(file)], stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: events().count("start worker") == 2, "the ranks did not start")
        yield file, process
    finally:
        process.kill()
        process.communicate()
        controller.sweep(plan(file)[0].folder)


def test_interrupt_leaves_nothing_and_the_same_command_goes_on(launcher: Launcher, work: Path, events: Events) -> None:
    file, process = launcher
    folder = plan(file)[0].folder
    assert [(row["stage"], row["state"]) for row in status("runs")] == [("a", "running"), ("b", "waiting")]
    with pytest.raises(ConfigError, match=f"process {process.pid} on .* is launching"):
        launch(file, line=LINE)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=30)
    assert process.returncode == 130
    assert controller.left_over(folder) == []
    assert events().count("tidied") == 2  # each rank was interrupted once and ended by itself
    assert "the same command goes on from here" in output
    assert [(row["stage"], row["state"]) for row in status("runs")] == [("a", "stopped"), ("b", "not started")]
    (work / "gate").touch()
    assert launch(file, line=LINE) == 0
    assert [row["state"] for row in status("runs")] == ["done", "done"]


def test_cancel_one_stage_and_then_the_launch(launcher: Launcher, work: Path) -> None:
    file, process = launcher
    assert cancel(Path("runs"), "a") == 0
    _, output = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "a: FAILED (rank 0): cancelled" in output
    assert controller.left_over(plan(file)[0].folder) == []
    assert [(row["state"], row["reason"]) for row in status("runs")] == [
        ("failed", "cancelled"),
        ("not started", "a failed"),
    ]
    assert cancel(Path("runs"), "a") == 0  # nothing is left to end


def test_cancel_ends_the_launch_as_ctrl_c_does(launcher: Launcher) -> None:
    file, process = launcher
    assert cancel(Path("runs")) == 0
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert controller.left_over(plan(file)[0].folder) == []


def test_a_killed_launcher_takes_its_jobs_with_it(launcher: Launcher, events: Events, until: Until) -> None:
    file, process = launcher
    process.kill()
    process.wait()
    until(lambda: not controller.left_over(plan(file)[0].folder), "the jobs outlived their launcher")
    assert events().count("tidied") == 2


def test_what_a_killed_launch_left_is_ended_first(
    launcher: Launcher, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, process = launcher
    folder = plan(file)[0].folder
    parent = next(p for p in controller.left_over(folder) if "laconvnet.launch.local.controller" in p.cmdline())
    process.send_signal(signal.SIGSTOP)  # so that it cannot react to the death of the controller
    os.kill(parent.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    assert len(controller.left_over(folder)) >= 4
    (work / "gate").touch()
    assert launch(file, line=LINE) == 0
    assert "a: ended" in capfd.readouterr().err
    assert controller.left_over(folder) == []


def test_a_killed_controller_is_a_failure_that_leaves_nothing(launcher: Launcher, until: Until) -> None:
    file, process = launcher
    folder = plan(file)[0].folder
    parent = next(p for p in controller.left_over(folder) if "laconvnet.launch.local.controller" in p.cmdline())
    os.kill(parent.pid, signal.SIGKILL)
    _, output = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "a: FAILED" in output
    assert "b: not started: a failed" in output
    until(lambda: not controller.left_over(folder), "the ranks outlived their controller")


def test_cancel_ends_a_launch_that_a_script_put_in_the_background(
    work: Path, stages: Write, events: Events, until: Until
) -> None:
    """There SIGINT is ignored, which processes inherit."""
    file = stages(GRAPH.format(work=work))
    program = PROGRAM.replace("signal.default_int_handler", "signal.SIG_IGN")
    process = subprocess.Popen([sys.executable, "-c", program, str(file)], stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: events().count("start worker") == 2, "the ranks did not start")
        assert cancel(Path("runs"), None) == 0
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert controller.left_over(plan(file)[0].folder) == []
    finally:
        process.kill()
        process.communicate()
        controller.sweep(plan(file)[0].folder)
