from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from laconvnet.files import publish_json
from laconvnet.launch.advice import of_stages
from laconvnet.launch.executor import lock
from laconvnet.launch.local.screen import Screen
from laconvnet.launch.status import last_log, progress, show, status
from laconvnet.launch.table import clock, drawn, write
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.sets.merge import pretrain_set
from tests.messages import tells
from tests.shards.faulty import annotation, built, ref, refer


def training(folder: Path, steps: int = 100) -> Path:
    """A run folder as training leaves it: two whole lines, a torn one, a committed checkpoint and one that is not."""
    for name in ("step-00000020/COMMIT", "step-00000009/COMMIT", "step-00000040/part"):
        (folder / "checkpoints" / name).parent.mkdir(parents=True)
        (folder / "checkpoints" / name).touch()
    lines = [
        {"version": 1, "step": step, "steps": steps, "loss": 0.5, "samples_per_s": 12.25, "eta_s": 3725.0}
        for step in (20, 30)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"version": 1, "step": 4')
    return folder


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    names = {"done": [], "bad": ["done"], "lost": ["bad"], "later": []}
    stages = [{"name": name, "folder": f"{name}-0", "needs": needs} for name, needs in names.items()]
    publish_json(tmp_path / "graph.json", {"selected": list(names), "stages": stages})
    (tmp_path / "done-0").mkdir()
    publish_json(tmp_path / "done-0" / "DONE.json", {"seconds": 12.5})
    training(tmp_path / "bad-0")
    publish_json(tmp_path / "bad-0" / "job.json", {"id": "j", "pid": 1, "host": "h", "started": 100.0})
    publish_json(tmp_path / "bad-0" / "FAILED.json", {"ended": 160.0, "reason": "no luck"})
    return tmp_path


def test_rows_of_a_graph(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, bad, lost, later = status(graph)
    assert (done["state"], done["seconds"]) == ("done", 12.5)
    assert (bad["state"], bad["seconds"], bad["reason"]) == ("failed", 60.0, "no luck")
    assert (bad["step"], bad["steps"], bad["samples_per_s"], bad["checkpoint"]) == (30, 100, 12.25, "step-00000020")
    assert (lost["state"], lost["reason"]) == ("not started", "bad failed")
    assert (later["state"], later["reason"]) == ("not started", None)
    with lock(graph):  # a launch is on: what has not started waits, except for what failed
        assert [row["state"] for row in status(graph)] == ["done", "failed", "not started", "waiting"]
    assert status(graph / "bad-0") == [bad]

    assert show(graph, watch=True, as_json=True) == 0  # nothing runs: there is nothing to watch
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [done, bad, lost, later]
    assert show(graph) == 0
    line = capsys.readouterr().out.splitlines()[2]
    assert line.split() == ["bad", "failed", "30/100", "0.5", "12.2", "-", "step-00000020", "1:00", "no", "luck"]


def lossy(stage: Path) -> Path:
    """A set built in a stage: of train's 2 expressions, regions and pictures one is lost, of val nothing."""
    root = refer(stage / "raw", [ref(1, 1, "val"), ref(2, 2), ref(3, 3)], [annotation(10, 1), annotation(30, 3)])
    manifest, _ = built("refcoco", root, root / "images")
    return manifest.folder


def test_a_stage_that_built_a_set_tells_what_faults_have_cost(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = lossy(graph / "done-0")
    pretrain_set([(done, 1.0)], [], graph / "bad-0" / "mixed")
    rows = status(graph)
    assert rows[0]["lost"] == ["lost 1 of 2 train pictures, 1 of 2 train expressions"]
    assert [row["lost"] for row in rows[1:]] == [None, None, None], "parts are told where they were built"
    assert show(graph) == 0
    assert "done lost 1 of 2 train pictures, 1 of 2 train expressions" in capsys.readouterr().out.splitlines()
    (done / "manifest.parquet").write_bytes(b"torn")
    (line,) = status(graph)[0]["lost"]
    assert tells(line, str(done / "manifest.parquet"), "damaged")


def test_a_job_on_another_host_runs_while_its_launcher_holds_the_lock(graph: Path) -> None:
    (graph / "bad-0" / "FAILED.json").unlink()
    assert status(graph)[1]["state"] == "stopped"
    with lock(graph):
        assert status(graph)[1]["state"] == "running"


def test_a_run_alone(tmp_path: Path) -> None:
    (row,) = status(training(tmp_path / "run"))
    assert (row["stage"], row["state"], row["step"], row["eta"]) == ("run", "running", 30, 3725.0)
    (row,) = status(training(tmp_path / "ended", steps=30))
    assert (row["state"], row["eta"]) == ("done", None)


def result(file: Path, split: str, share: float) -> None:
    facts = {"task": "rec", "split": split, "run": "r", "data": "d", "examples": 8, "step": 2}
    publish_json(file, facts | {"miou": 0.5, "acc@0.5": share, "wordless": 3})


def test_the_newest_score_of_a_stage_or_run(graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result(graph / "done-0" / "val.json", "val", 0.25)
    os.utime(graph / "done-0" / "val.json", (1, 1))
    result(graph / "done-0" / "testA.json", "testA", 0.125)
    publish_json(graph / "done-0" / "other.json", {"task": "rec", "accuracy": 1.0})  # no result
    (graph / "bad-0" / "eval").mkdir()
    result(graph / "bad-0" / "eval" / "set-val.json", "val", 0.75)
    scores = [row["score"] for row in status(graph)]
    assert scores[:2] == [
        {"metric": "acc@0.5", "split": "testA", "score": 0.125},
        {"metric": "acc@0.5", "split": "val", "score": 0.75},
    ]
    assert scores[2:] == [None, None]
    (row,) = status(training(tmp_path / "run"))
    assert row["score"] is None
    assert show(graph) == 0
    assert "12.5% acc@0.5 testA" in capsys.readouterr().out


def test_what_to_do_next(graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(folder: Path) -> list[str]:
        assert show(folder) == 0
        return capsys.readouterr().out.splitlines()[-2:]

    counts, following = told(graph)
    assert counts == "4 stages: 1 done, 1 failed, 2 not started"
    assert tells(following, "next: ", f"`laconvnet logs {graph} bad`", "the same launch")
    (graph / "bad-0" / "FAILED.json").unlink()
    with lock(graph):  # the job on another host runs as long as its launcher does
        counts, following = told(graph)
    assert counts == "4 stages: 1 done, 1 running, 2 waiting"
    assert tells(following, f"laconvnet status {graph} --watch", f"laconvnet logs {graph} bad --follow")
    assert told(graph)[1] == "next: the same `laconvnet launch` goes on"
    for name in ("bad", "lost", "later"):
        (graph / f"{name}-0").mkdir(exist_ok=True)
        publish_json(graph / f"{name}-0" / "DONE.json", {"seconds": 1.0})
    assert told(graph) == ["4 stages: 4 done", f"next: `laconvnet report {graph}` draws it on one page"]
    (graph / "report.html").touch()
    assert told(graph)[1] == f"next: open {graph}/report.html"
    spaced = training(tmp_path / "a run", steps=30)
    assert told(spaced)[0] == "1 done"
    assert f"laconvnet eval '{spaced}'" in told(spaced)[1]
    assert show(graph, as_json=True) == 0
    assert all(line.startswith("{") for line in capsys.readouterr().out.splitlines())


def test_waiting_jobs_go_on_by_themselves(graph: Path) -> None:
    assert "by itself" in of_stages([{"stage": "a", "state": "waiting", "failed": None}], graph)[1]
    running = {"stage": "a", "state": "running", "failed": [{"task": 3}]}  # a task of its array
    assert f"laconvnet logs {graph} a" in of_stages([running], graph)[1]


def test_a_state_has_a_colour_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for state, code in (("done", "32"), ("failed", "1;31"), ("running", "36"), ("error", "1;31")):
        for kind in (Terminal, io.StringIO):
            stream = kind()
            write(drawn([{"name": state, "state": state}]), stream)
            assert (f"\x1b[{code}m{state}" in stream.getvalue()) == stream.isatty()
            assert stream.getvalue().splitlines()[1].startswith(state), "only of the state itself"


def test_a_folder_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"graph\.json"):
        status(tmp_path)


def test_progress(tmp_path: Path) -> None:
    run = training(tmp_path / "run")
    assert last_log(run)["step"] == 30
    assert progress(run) == "step 30/100, loss 0.5, 12.2 samples/s, 1:02:05 left"
    log = tmp_path / "log.err"
    assert progress(tmp_path, log) == ""
    log.write_text("reading\nbuild:  10%|#   | 1/10\rbuild:  20%|##  | 2/10")
    assert progress(tmp_path, log) == "build:  20%|##  | 2/10"


def test_texts() -> None:
    assert [clock(seconds) for seconds in (None, 0.4, 59, 61, 3600)] == ["-", "0 s", "59 s", "1:01", "1:00:00"]


ERASED, CURSOR_HIDDEN, CURSOR_SHOWN = "\x1b[2K", "\x1b[?25l", "\x1b[?25h"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_live_line(kind: Callable[[], io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("laconvnet.launch.local.screen.time.monotonic", lambda: now[0])
    stream = kind()
    screen = Screen(stream)
    for second in (0, 20, 20.1, 40, 60):
        now[0] = second
        screen.progress(lambda: {"a": "step 1" if now[0] < 60 else "step 2", "quiet": ""})
    screen.line("done")
    output = stream.getvalue()
    assert output.endswith("done\n")
    if not stream.isatty():
        assert output == "  a: step 1\n  a: step 2\ndone\n"
        return
    assert re.findall("a: step [12]", output)[:3] == ["a: step 1", "a: step 1", "a: step 2"]
    assert output.rindex(ERASED) > output.rindex("a: step 2"), "the live line is taken away"
    assert output.rindex(CURSOR_SHOWN) > output.rindex(CURSOR_HIDDEN)


def test_a_live_line_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("laconvnet.launch.local.screen.TICK_SECONDS", 0.0)
    stream = Terminal()
    screen = Screen(stream)
    screen.progress(lambda: {"a": "x" * 50})
    assert "x" * 16 in stream.getvalue()
    assert "x" * 20 not in stream.getvalue()
    screen.close()


def test_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, object]] = [
        {"a": "xyz", "b": None, "n": 1234, "text": "[bold] " + "long " * 60},
        {"a": "-", "b": "w", "n": 5},
    ]
    pipe = io.StringIO()
    write(drawn(rows, {"a": "A", "n": "N", "text": "T", "b": "B"}), pipe)
    lines = pipe.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["A", "N"], ["xyz", "1,234"], ["-", "5"]]
    assert lines[1].endswith("long   -"), "nothing is folded or cut"
    assert "[bold] long" in lines[1], "no markup"
    assert lines[0].index("N") == lines[1].index("4"), "numbers end together"
    assert not [line for line in lines if line != line.rstrip()]
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    write(drawn(rows), terminal)
    plain = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()
    assert max(map(len, plain)) <= 60, "folded to the terminal's width"
    assert sum(line.count("long") for line in plain) == 60


@pytest.mark.parametrize(
    ("ends", "at", "state"), [(True, 20, "done"), (False, 20, "running"), (True, 9, "running"), (True, 25, "running")]
)
def test_a_run_that_validation_has_ended_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ends: bool, at: int, state: str
) -> None:
    """Its newest checkpoint is that of step 20; a row of the log behind the validation says that it went on."""
    training(tmp_path)
    log = (tmp_path / "log.jsonl").read_text().splitlines()
    (tmp_path / "log.jsonl").write_text(log[0] + "\n")
    row = {"step": at, "metric": "miou", "split": "val", "score": 0.25, "best": 0.5, "best_step": 5, "waited": 1}
    (tmp_path / "validations.jsonl").write_text(json.dumps(row | {"ends": ends}) + "\n")
    (found,) = status(tmp_path)
    assert found["state"] == state
    assert found["validation"] == row | {"ends": ends}
    assert show(tmp_path) == 0
    assert f"0.250 at {at}, best 0.500 at 5" in " ".join(capsys.readouterr().out.split())
    assert "best 0.500 at 5" in progress(tmp_path)
    if state == "done":
        (tmp_path / "log.jsonl").write_text("\n".join(log[:2]) + "\n")
        assert status(tmp_path)[0]["state"] == "running"
