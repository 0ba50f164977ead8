"""Arrays on this machine: tasks side by side, one that fails, and what the same command runs again."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from laconvnet.files import find_object, publish_json
from laconvnet.launch import cli
from laconvnet.launch.control import cancel, logs
from laconvnet.launch.executor import launch
from laconvnet.launch.graph import stages as graphs
from laconvnet.launch.graph.stages import plan
from laconvnet.launch.outcomes import settle
from laconvnet.launch.status import status
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs.layout import array_of, task_folder
from tests.launch.any_line import LINE

Write = Callable[[str], Path]
Events = Callable[[], list[str]]
Until = Callable[[Callable[[], object], str], None]
PROGRAM = """
import sys
from tests.launch.any_line import LINE
from laconvnet.launch import executor, job
job.ENTRY = "stage_entry:main"
sys.exit(executor.launch(sys.argv[1], LINE))
"""
ARRAY = """
shares: {run: [share, "{here}", "{task}", meet], array: 4, at_once: 2, threads: 1}
joined: {run: [write, "{here}/f", joined, "{shares}"], threads: 1}
other: {run: [write, "{here}/f", other], threads: 1}
"""


def most(events: list[str]) -> int:
    """How many shares were at work at the same time."""
    counts, running = [0], 0
    for event in events:
        running += (event.startswith("start ") - event.startswith("end ")) * ("/" in event)
        counts.append(running)
    return max(counts)


def test_a_task_that_fails_and_what_the_same_command_runs_again(
    stages: Write, events: Events, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(graphs, "cores", lambda: 8)
    file = stages(ARRAY)
    shares, joined, _ = plan(file)
    assert launch(file, line=LINE) == 1
    assert most(events()) == 2
    assert {event for event in events() if event.startswith("start")} == {
        *(f"start {share}/4" for share in range(1, 5)),
        "start other",
    }
    told = capfd.readouterr().err
    assert "[1/3] shares  (4 of 4 tasks)  ... next: other" in told or "next: joined, other" in told
    assert "shares task 1: FAILED (rank 0): ValueError: no such share" in told
    assert "joined: not started: shares failed" in told
    assert not (joined.folder / "f").exists()
    row, after, _ = status("runs")
    assert (row["state"], row["tasks"]) == ("failed", {"of": 4, "done": 3, "failed": 1})
    assert [one["task"] for one in row["failed"]] == [1]
    assert (after["state"], after["reason"]) == ("not started", "shares failed")
    assert logs(Path("runs"), "shares", task=1) == 0
    assert "no such share" in capfd.readouterr().out

    (shares.folder / "mended").touch()
    assert launch(file, line=LINE) == 0
    assert "(1 of 4 tasks)" in capfd.readouterr().err
    counts = Counter(event for event in events() if event.startswith("start"))
    assert (counts["start 1/4"], counts["start 2/4"], counts["start joined"]) == (1, 2, 1)
    done = find_object(shares.folder / "DONE.json")
    assert done is not None
    assert done["tasks"] == 4
    assert status("runs")[0]["tasks"] == {"of": 4, "done": 4}
    starts = (shares.jobs[1].folder / "starts.jsonl").read_text()
    assert (starts.count('"start", "nodes"'), starts.count('"failed"'), starts.count('"done"')) == (2, 1, 1)

    # As many as were, or another number: what is done is done.
    stages(ARRAY.replace("array: 4", "array: 2"))
    assert launch(file, line=LINE) == 0
    assert Counter(event for event in events() if event.startswith("start")) == counts


def test_the_cores_limit_an_array_too(stages: Write, events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "cores", lambda: 1)
    file = stages('shares: {run: [share, "{here}", "{task}"], array: 3, threads: 1}')
    assert launch(file, line=LINE) == 1
    assert most(events()) == 1


def test_an_array_is_cancelled_with_the_tasks_that_wait(stages: Write, events: Events, until: Until) -> None:
    file = stages('shares: {run: [linger, "{here}/gate", "{task}"], array: 5, at_once: 1, threads: 1}')
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(file)], stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: "start linger" in events(), "no task started")
        row = status("runs")[0]
        assert (row["state"], row["tasks"]["running"]) == ("running", 1)
        assert cancel(Path("runs"), "shares") == 0
        _, output = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert "shares task 0: FAILED (rank 0): cancelled" in output
    assert events().count("start linger") == 1


def test_the_last_task_makes_the_stage_done(tmp_path: Path) -> None:
    stage = tmp_path / "shares-0123456789"
    places = [task_folder(stage, 3, task) for task in range(3)]
    for task in (0, 2):
        places[task].mkdir(parents=True)
        publish_json(places[task] / "DONE.json", {"identity": "a", "started": 10.0 * task, "ended": 10.0 * task + 5})
    assert not settle(stage, 3, "a")
    places[1].mkdir()
    publish_json(places[1] / "DONE.json", {"identity": "of other arguments", "started": 1.0, "ended": 2.0})
    assert not settle(stage, 3, "a")
    assert not (stage / "DONE.json").exists()
    publish_json(places[1] / "DONE.json", {"identity": "a", "started": 1.0, "ended": 99.0, "host": "last"})
    assert settle(stage, 3, "a")
    assert find_object(stage / "DONE.json") == {
        **{"identity": "a", "started": 0.0, "ended": 99.0, "host": "last", "tasks": 3, "seconds": 99.0}
    }
    assert array_of(places[1]) == (stage, 3)
    assert array_of(stage) is None
    assert array_of(tmp_path / "array-3" / "shares-0123456789") is None


def test_what_is_wrong_is_told_before_anything_runs(stages: Write, work: Path) -> None:
    file = stages(
        """
        build: {run: [shards, build, refcoco, --root, nowhere, --out, "{here}", --task, "{task}"], array: 2}
        other: {run: [shards, build, clevr, --root, neither, --out, "{here}"]}
        """
    )
    with pytest.raises(ConfigError) as caught:
        launch(file, cli.parser())
    first, second = str(caught.value).splitlines()
    assert "stage 'build': run: --root nowhere: no such file" in first
    assert "stage 'other': run: --root neither: no such file" in second
    assert not (work / "runs").exists()
