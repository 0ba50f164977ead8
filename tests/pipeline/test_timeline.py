"""The course of a stage graph: what happened when, read from the files of its jobs, and how it is drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from laconvnet.pipeline.report.page import report
from laconvnet.pipeline.runs.history import places, spans


def noted(folder: Path, *entries: tuple[str, int, float, str]) -> None:
    """A history of starts: job, start, time, and how it ended, or nothing for its beginning."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"job": job, "start": start, "time": at} | ({"event": "end", "outcome": how} if how else {"event": "start"})
        for job, start, at, how in entries
    ]
    (folder / "starts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"job": "7", "st')


def asked(folder: Path, job: str, at: float, cluster: str = "slurm") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps({"id": job, "cluster": cluster, "started": at}))


def test_the_course_of_a_stage_from_its_files(tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked(run, "8", 100)
    noted(
        run,
        *[("7", 0, 10, ""), ("7", 0, 40, "failed")],  # an earlier launch: nobody knows since when it was asked for
        *[("8", 0, 130, ""), ("8", 0, 200, "time limit"), ("8", 1, 230, ""), ("8", 2, 260, "")],  # its node was lost
        *[("8", 2, 300, "retry"), ("8", 3, 310, "")],
    )
    before = [("queued", 100, 130), ("queued", 200, 230), ("queued", 300, 310), ("interrupted", 130, 200)]
    before += [("interrupted", 230, 300)]

    def course(now: float = 500) -> list[tuple[str, float, float]]:
        return [(span.kind, span.begin, span.end) for span in spans([run], lambda: now)]

    assert course() == [*before, ("running", 310, 500), ("failed", 10, 40)]
    (run / "DONE.json").write_text('{"ended": 400}')  # the batch script has not had its last word
    assert course() == [*before, ("done", 310, 400), ("failed", 10, 40)]

    fresh = tmp_path / "fresh"
    asked(fresh, "9", 100)
    assert [(span.kind, span.end) for span in spans([fresh], lambda: 160)] == [("queued", 160)]
    local = tmp_path / "local"
    asked(local, "x", 100, "local")
    noted(local, ("x", 0, 100, ""), ("x", 0, 120, "stopped"))
    (local / "starts.jsonl").write_text((local / "starts.jsonl").read_text().replace('{"job": "7", "st', ""))
    with (local / "starts.jsonl").open("a") as stream:
        stream.write('{"job": "y", "event": "start", "start": 0, "time": 900}\n')
    asked(local, "y", 900, "local")
    # What lies between two launches on this machine is no queue.
    assert [(span.kind, span.begin, span.end) for span in spans([local], lambda: 950)] == [
        *[("interrupted", 100, 120), ("running", 900, 950)]
    ]
    assert spans([tmp_path / "nothing"]) == ()


def test_the_tasks_of_an_array_are_one_row(tmp_path: Path) -> None:
    tasks = places(tmp_path, 3)
    assert tasks == [tmp_path / "array-3" / str(task) for task in range(3)]
    for task, at in zip(tasks, (0, 40, 200), strict=True):
        noted(task, ("7", 0, at, ""), ("7", 0, at + 50, "done"))
    assert [(span.begin, span.end) for span in spans(tasks)] == [(0, 90), (200, 250)]


@pytest.mark.parametrize("count", [3, 100])
def test_a_graph_s_course_is_drawn(tmp_path: Path, count: int) -> None:
    root = tmp_path / "runs"
    names = [f"stage-{number}" for number in range(count - 1)] + ["<script>-of-a-very-long-name-that-ends-in-testB"]
    stages = [
        {"name": name, "title": "", "identity": "a", "folder": f"s{number}", "needs": [], "command": "x"}
        | {"array": 2 if number == 1 else None}
        for number, name in enumerate(names)
    ]
    for number in range(count):
        for place in places(root / f"s{number}", 2 if number == 1 else None):
            asked(place, "7", 1000.0)
            noted(place, ("7", 0, 1000 + 60.0 * number, ""), ("7", 0, 1060 + 60.0 * number, "done"))
    (root / "s1" / "array-2" / "1" / "FAILED.json").write_text('{"reason": "no such share", "ended": 1100, "rank": 0}')
    (root / "graph.json").write_text(json.dumps({"version": 1, "name": "a <b>", "stages": stages}))
    report([root], root / "report.html")
    page = (root / "report.html").read_text()
    (chart,) = re.findall(r'<div class="gantt".*?</svg>', page, flags=re.DOTALL)
    (box,) = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart)
    width, height = map(float, box)
    bars = re.findall(r'<g class="done"><title>([^<]*)</title>\s*<path d="([^"]*)"', chart)
    assert [title.split(":")[0] for title, _ in bars[:-1]] == names[:-1], "a bar says whose it is"
    assert len(bars) == count
    corners = [[(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)] for _, path in bars]
    places_of = [min(found) for found in corners]
    assert places_of == sorted(places_of)  # one below the other, one after the other
    assert all(0 < x <= width and 0 < y <= height for found in corners for x, y in found)
    assert height / count >= 14 * 0.72  # points: the page's units are a hundredth of an inch
    assert len({y for _, y in places_of}) == count
    ticks = re.findall(r">(0|\d+ (?:s|min|h)(?: \d+ (?:s|min))?)</text>", chart)
    assert ticks[0] == "0"
    assert 2 <= len(ticks) <= 8
    assert f"{count - 1} min" in ticks or count > 7
    assert "<title>stage-1: queued 1 min, done 1 min</title>" in chart
    assert "✗ stage-1" in chart
    assert "&lt;script&gt;" in chart
    assert "-ends-in-testB</text>" in chart
    assert "<script" not in page
    assert "<small>task 1: no such share</small>" in page
