"""The demo's whole graph on a real SLURM: the file that `make demo` runs, with fewer images and over two nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.launch.graph.stages import read
from tests.slurm.suite import Work

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"pictures": "96", "nodes": "2"}


def test_from_raw_files_to_the_report(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    work.file, work.entry = ROOT / "configs" / "demo" / "stages.yaml", "laconvnet.launch.cli:main"
    graph = read(work.file, work.out, SMALL)
    assert work.submit(out=work.out, given=SMALL) == 0
    ended = work.ended(*graph.stages)
    assert ended == {stage.name: ("done", None) for stage in graph.stages}
    page, table = (work.out / name for name in ("report.html", "report.txt"))
    for output in ("Referring expressions, held-out images", "refcoco testB", "clevr val"):
        assert output in page.read_text()
    assert 'class="gantt"' in page.read_text()
    assert "report.html" in table.read_text()
    for stage in graph.stages:
        for need in map(graph.stage, stage.needs):
            done = [(one.folder / "DONE.json").stat().st_mtime for one in (need, stage)]
            assert done[0] <= done[1], f"{stage.name} ended before {need.name}"
    assert (graph.stage("pretrain").folder / "jobs" / "submission.json").is_file()
    work.empty()  # the last job is in the queue for a while after its work is done
    assert work.submit(out=work.out, given=SMALL) == 0
    assert not work.queue()
