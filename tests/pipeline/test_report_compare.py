"""Runs side by side: arms, intervals over seeds, differences of configurations, one image of all losses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from laconvnet.files import publish_json
from laconvnet.pipeline.report.compare import Interval, comparisons
from laconvnet.pipeline.report.curves import overlaid
from laconvnet.pipeline.report.gather import gather
from laconvnet.pipeline.report.page import report


def run(folder: Path, seed: int, lr: float, score: float | None, data: str = "sets/d", task: str = "rec") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"seed: {seed}\ndata: {{folder: {data}}}\nmodel: {{task: {task}}}\noptimizer: {{lr: {lr}, clip: 1}}\n"
    )
    log = [{"version": 1, "step": step, "steps": 30, "loss": 9.0 / step} for step in (10, 20, 30)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    if score is not None:
        facts = {"task": task, "split": "val", "run": str(folder), "data": data, "examples": 8, "step": 30}
        publish_json(folder / "val.json", facts | {"acc@0.5": score, "miou": 0.5})
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> list[Path]:
    """Two rates, one with three seeds; another task, and another set."""
    runs = [run(tmp_path / f"s{seed}", seed, 0.001, score) for seed, score in enumerate((0.5, 0.6, 0.7))]
    runs.append(run(tmp_path / "fast", 0, 0.01, 0.25))
    runs.append(run(tmp_path / "words", 0, 0.01, None, task="vqa"))
    return [*runs, run(tmp_path / "elsewhere", 0, 0.01, None, data="sets/e")]


def test_runs_that_differ_in_the_seed_are_one_arm(sweep: list[Path]) -> None:
    (found,) = comparisons(gather(sweep))
    assert (found.title, found.keys, found.subjects) == ("rec on d", ("optimizer.lr",), ("d val, acc@0.5",))
    slow, fast = found.arms
    assert (slow.name, fast.name) == ("lr 0.001", "lr 0.01")
    assert [one.folder.name for one in slow.runs] == ["s0", "s1", "s2"]
    assert slow.settings == {"optimizer.lr": "0.001"}
    (score,) = slow.scores.values()
    assert score.count == 3
    assert score.mean == pytest.approx(0.6)
    assert score.half == pytest.approx(4.303 * 0.1 / math.sqrt(3))
    (score,) = fast.scores.values()
    assert (score.mean, score.half, score.count) == (0.25, None, 1)
    assert comparisons(gather(sweep[4:])) == [], "another task and another set are compared with nothing"


def test_an_interval_of_many_runs_is_not_too_narrow() -> None:
    assert Interval.of([0.0, 1.0]).half == pytest.approx(12.706 / 2)
    many = Interval.of([0.0, 1.0] * 20)
    assert many.half is not None
    assert many.half > 1.96 * 0.5 / math.sqrt(40)


def test_arms_that_differ_in_much_have_the_names_of_their_runs(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", 0, 0.1, 0.5), run(tmp_path / "b", 0, 0.2, 0.5)
    text = (second / "config.yaml").read_text()
    (second / "config.yaml").write_text(text + "engine: {zero: 2}\nlog: {every: 5}\ncheckpoint: {keep: 9}\n")
    (found,) = comparisons(gather([first, second]))
    assert [arm.name for arm in found.arms] == ["a", "b"]
    assert found.keys == ("checkpoint.keep", "engine.zero", "log.every", "optimizer.lr")
    assert [arm.settings["engine.zero"] for arm in found.arms] == ["-", "2"]


def test_the_page_and_its_text_have_it(sweep: list[Path], tmp_path: Path) -> None:
    text = report(sweep, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert 'href="#comparison"' in page
    assert 'alt="Loss over steps of lr 0.001; lr 0.01, in one image"' in page
    assert ">60.0 <small>±24.8</small>" in page.replace("\n", "")
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("compared: rec on d"))
    assert lines[at + 1].split() == ["lr", "0.001", "3", "60.0", "±24.8"]
    assert lines[at + 2].split() == ["lr", "0.01", "1", "25.0"]
    report(sweep[3:], tmp_path / "alone.html")
    assert 'href="#comparison"' not in (tmp_path / "alone.html").read_text()


def test_losses_in_one_image() -> None:
    log = [{"step": step, "loss": 1.0} for step in (1, 2)]
    assert overlaid([("a", [log])]) is None
    assert overlaid([("a", [log, log[:1]])]) is None
    assert overlaid([("a", [log, log]), ("b", [])]) is not None
