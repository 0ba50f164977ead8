from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from laconvnet.launch.executor import launch, lock
from laconvnet.launch.graph import stages as graphs
from laconvnet.launch.graph.stages import plan
from laconvnet.launch.status import status
from laconvnet.pipeline.errors import ConfigError
from tests.launch.any_line import LINE

Write = Callable[[str], Path]
Events = Callable[[], list[str]]

THREE = """
last: {run: [write, "{here}/f", last, "{middle}"], threads: 1}
first: {run: [write, "{here}/f", first], threads: 1}
middle: {run: [write, "{here}/f", middle, "{first}"], threads: 1, title: In between}
"""


def started(events: list[str]) -> list[str]:
    return [event.removeprefix("start ") for event in events if event.startswith("start ")]


def test_order_marker_and_nothing_twice(stages: Write, events: Events, capfd: pytest.CaptureFixture[str]) -> None:
    file = stages(THREE)
    assert launch(file, line=LINE) == 0
    assert started(events()) == ["first", "middle", "last"]
    first, middle, _ = plan(file)
    done = json.loads((middle.folder / "DONE.json").read_text())
    assert done["identity"] == middle.fingerprint
    assert done["command"] == f"laconvnet write {middle.folder}/f middle {first.folder}"
    assert done["ended"] - done["started"] == pytest.approx(done["seconds"], abs=0.01)
    assert {"host", "version", "processes"} <= done.keys()
    output = capfd.readouterr()
    assert output.out == ""
    assert "[2/3] middle  In between  ... next: last" in output.err
    assert "3 done" in output.err

    assert launch(file, line=LINE) == 0
    assert len(started(events())) == 3
    assert "found done: first, middle, last" in capfd.readouterr().err

    # What changed and what follows from it runs; the rest is found done.
    stages(THREE.replace("middle, ", "changed, "))
    assert launch(file, line=LINE) == 0
    assert started(events())[3:] == ["changed", "last"]


def test_selections(stages: Write, events: Events, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = stages(THREE)
    with pytest.raises(ConfigError, match=r"'last' reads from stages that are not done: middle;"):
        launch(file, only="last", line=LINE)
    with pytest.raises(ConfigError, match=r"'middle' reads .* not done: first;"):
        launch(file, from_="middle", line=LINE)
    with pytest.raises(ConfigError, match="'nobody' is unknown; expected one of first, middle, last"):
        launch(file, only="nobody", line=LINE)
    with pytest.raises(ConfigError, match="both given"):
        launch(file, only="last", from_="last", line=LINE)
    with pytest.raises(ConfigError, match=r"moon: cannot be read .* --cluster expects local"):
        launch(file, cluster="moon", line=LINE)
    assert not (work / "runs").exists()

    assert launch(file, dry_run=True, line=LINE) == 0
    assert not (work / "runs").exists()
    message = capsys.readouterr().out
    first, middle, last = plan(file)
    assert "[2/3] middle: would run  In between" in message
    assert f"laconvnet write {middle.folder}/f middle {first.folder}" in message
    assert f"folder     {last.folder}" in message

    with pytest.raises(ConfigError, match="--with-needs: expected --only"):
        launch(file, line=LINE, needs=True)
    assert launch(file, only="first", line=LINE) == 0
    assert launch(file, only="first", line=LINE) == 0
    assert started(events()) == ["first"]
    assert launch(file, dry_run=True, only="middle", line=LINE) == 0
    message = capsys.readouterr().out
    assert "first: done" in message
    assert "middle: would run" in message
    assert "last: not taken" in message
    assert launch(file, line=LINE) == 0
    assert launch(file, from_="middle", line=LINE) == 0
    assert started(events()) == ["first", "middle", "last", "middle", "last"]

    (middle.folder / "kept").touch()
    assert launch(file, only="middle", force=True, line=LINE) == 0
    assert started(events())[5:] == ["middle"]
    assert not (middle.folder / "kept").exists()
    assert (work / "runs" / "replaced" / f"{middle.folder.name}.1" / "kept").exists()


def test_a_stage_with_what_it_needs(stages: Write, events: Events, work: Path) -> None:
    file = stages(THREE + 'other: {run: [write, "{here}/f", other], threads: 1}\n')
    with pytest.raises(ConfigError, match=r"'last' reads .* not done: middle; run them first, with --with-needs$"):
        launch(file, only="last", line=LINE)
    with pytest.raises(ConfigError, match=r"not done: first; run them first, or the whole graph$"):
        launch(file, from_="middle", line=LINE)
    assert launch(file, only="first", line=LINE) == 0
    assert launch(file, only="last", needs=True, line=LINE) == 0
    assert started(events()) == ["first", "middle", "last"]
    assert launch(file, only="last", needs=True, line=LINE) == 0
    assert launch(file, only="last", needs=True, force=True, line=LINE) == 0
    assert started(events())[3:] == ["first", "middle", "last"]


def test_a_dry_run_tells_what_is_not_there(
    stages: Write, work: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stages(
        """
        a: {run: [write, --root, here]}
        b: {run: [write, --root, gone, --images, lost]}
        c: {run: [write, --data, "{a}/x", --init_from, other]}
        """
    )
    (work / "here").mkdir()
    for cluster, shown in (("local", "    command "), ("site.yaml", "#!/bin/bash")):
        with pytest.raises(ConfigError) as caught:
            launch(file, LINE, cluster, dry_run=True)
        told = [(line.split("'")[1], line.split(":")[3].strip()) for line in str(caught.value).splitlines()]
        assert told == [("b", "--root gone"), ("b", "--images lost"), ("c", "--init_from other")]
        assert capsys.readouterr().out.count(shown) == 3
        assert launch(file, LINE, cluster, dry_run=True, only="a") == 0  # of the stages taken


def test_what_runs_again_is_not_done_until_it_has(stages: Write, work: Path) -> None:
    """`--from` that fails half way must not leave the later stages done with results of before."""
    file = stages('a: {run: [write, "{here}/gate", x]}\nb: {run: [say, 0, x, "{a}"]}')
    assert launch(file, line=LINE) == 0
    a, b = plan(file)
    (a.folder / "gate").unlink()
    (a.folder / "gate").mkdir()  # so that the first stage fails
    assert launch(file, from_="a", line=LINE) == 1
    assert not (b.folder / "DONE.json").exists()


def test_as_many_at_once_as_the_cores_allow(
    stages: Write, events: Events, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "cores", lambda: 2)
    file = stages(
        """
        a: {run: [meet, a, b], threads: 1}
        wide: {run: [write, "{here}/f", wide], processes: 3, threads: 1}
        b: {run: [meet, b, a], threads: 1}
        """
    )
    assert launch(file, line=LINE) == 0  # a and b each end only if they run at the same time
    seen = events()
    running: set[str] = set()
    wide = seen.index("start wide")
    for event in seen[:wide]:
        action, name = event.split()
        (running.add if action == "start" else running.remove)(name)
    assert running == set()  # what wants more cores than there are runs alone
    assert seen.count("end wide") == 3


def test_a_failure_stops_what_needs_it_and_nothing_else(
    stages: Write, events: Events, capfd: pytest.CaptureFixture[str]
) -> None:
    file = stages(
        """
        bad: {run: [say, 3, "expected a better world"], threads: 1}
        child: {run: [write, "{here}/f", child, "{bad}"], threads: 1}
        grandchild: {run: [write, "{here}/f", grandchild, "{child}"], threads: 1}
        other: {run: [write, "{here}/f", other], threads: 1}
        another: {run: [write, "{here}/f", another, "{other}"], threads: 1}
        worse: {run: [raise, "a broken thing"], threads: 1}
        """
    )
    assert launch(file, line=LINE) == 1
    assert set(started(events())) == {"say", "other", "another"}
    output = capfd.readouterr().err
    bad = plan(file)[0]
    log = next((bad.folder / "jobs").glob("*_0_log.err"))
    assert "bad: FAILED (rank 0): expected a better world" in output
    assert "    | expected a better world" in output
    assert f"the whole log: {log}" in output
    assert "grandchild: not started: bad failed" in output
    assert "worse: FAILED (rank 0): ValueError: a broken thing" in output
    assert "in main" in output  # the traceback
    rows = {row["stage"]: (row["state"], row["reason"]) for row in status("runs")}
    assert rows["bad"] == ("failed", "expected a better world")
    assert rows["grandchild"] == ("not started", "bad failed")
    assert rows["another"][0] == "done"


def test_what_the_command_line_imports_is_cheap() -> None:
    program = (
        "import sys, laconvnet.launch.executor, laconvnet.launch.status, laconvnet.launch.doctor; "
        "sys.exit(' '.join({'torch', 'submitit', 'yaml', 'pydantic', 'psutil', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr == "\n"


def test_one_launch_at_a_time(stages: Write, work: Path) -> None:
    file = stages(THREE)
    (work / "runs").mkdir()
    with lock(work / "runs"), pytest.raises(ConfigError) as caught:
        launch(file, line=LINE)
    holder = json.loads((work / "runs" / "launch.lock").read_text())
    assert f"process {holder['pid']} on {holder['host']} is launching" in str(caught.value)
    assert not (work / "runs" / "graph.json").exists()
    with lock(work / "runs"):
        pass  # released
