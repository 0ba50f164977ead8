"""`--json` of the commands that start, end and show work: objects on standard output, words on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laconvnet.files import publish_json
from laconvnet.launch.commands.bench import show as bench_show
from laconvnet.launch.control import cancel, logs
from laconvnet.launch.executor import launch
from laconvnet.launch.graph.stages import plan
from laconvnet.pipeline.report.page import results
from tests.launch.any_line import LINE

Write = Callable[[str], Path]
TWO = 'a: {run: [write, "{here}/f", x], threads: 1}\nb: {run: [say, 0, hello, "{a}"], threads: 1}'


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_launch(stages: Write, printed: Callable[[], list[dict[str, Any]]]) -> None:
    file = stages(TWO)
    assert launch(file, LINE, dry_run=True, only="a", as_json=True) == 0
    a, b = printed()
    assert (a["stage"], a["would_run"], b["would_run"], b["needs"]) == ("a", True, False, ["a"])
    assert a["command"].startswith("laconvnet write")
    assert launch(file, LINE, as_json=True) == 0
    assert [(row["stage"], row["state"]) for row in printed()] == [("a", "done"), ("b", "done")]
    assert logs(Path("runs"), "b", as_json=True) == 0
    (line,) = (line for line in printed() if line["line"] == "hello")
    assert Path(line["file"]).name.endswith("_0_log.err")


def test_a_submission(stages: Write, slurm: Path, printed: Callable[[], list[dict[str, Any]]]) -> None:
    file = stages(TWO)
    assert launch(file, LINE, "site.yaml", dry_run=True, only="a", as_json=True) == 0
    a, b = printed()
    assert a["script"].startswith("#!/bin/bash")
    assert b["script"] is None
    assert launch(file, LINE, "site.yaml", as_json=True) == 0
    assert [row["job"] for row in printed()] == ["101", "102"]
    (slurm / "queue").write_text(f"102|PENDING|Dependency|{plan(file)[1].folder}\n")
    assert cancel(Path("runs"), as_json=True) == 0
    assert printed() == [{"cancelled": [{"stage": "b", "job": "102"}]}]


def test_results_of_a_report(tmp_path: Path) -> None:
    facts = {"task": "rec", "split": "val", "run": "r", "data": "d", "examples": 8, "step": 2, "annotated": 9}
    publish_json(tmp_path / "val.json", facts | {"acc@0.5": 0.25, "controls": {"blank_pictures": {"acc@0.5": 0.125}}})
    (found,) = results([tmp_path])
    assert {key: found[key] for key in facts} == facts
    assert (found["model"], found["metrics"]) == ("r", {"acc@0.5": 0.25})
    assert found["controls"] == {"blank_pictures": {"acc@0.5": 0.125}}


def test_rows_of_benches(tmp_path: Path, printed: Callable[[], list[dict[str, Any]]]) -> None:
    kept = Path(__file__).parents[2] / "docs" / "benchmarks"
    file = min(kept.glob("*.jsonl"), key=lambda one: one.stat().st_size)
    bench_show.show(file, json=True)
    assert printed() == [json.loads(line) for line in file.read_text().splitlines()]
