"""The report on data: the ledgers of the sets, and of which share of the annotated a score is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from laconvnet.pipeline.report.gather import gather
from laconvnet.pipeline.report.ledgers import Ledgers, accounts_of, ledgers_of, sets_of
from laconvnet.pipeline.report.page import report
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.sets.merge import pretrain_set
from tests.pipeline.test_report import boxes, launched, text_of, train
from tests.pipeline.test_report import toy as toy  # a fixture
from tests.shards.faulty import annotation, built, ref, refer, resealed

NONE = "\N{EN DASH}"


def lossy(folder: Path) -> Path:
    """A set of two of three images: one has no polygon, and a sentence of another is blank."""
    sentences = [{"sent_id": 1, "sent": " "}, {"sent_id": 2, "sent": "left"}]
    refs = [ref(1, 1, "val", sentences=sentences), ref(2, 2), ref(3, 3)]
    annotations = [annotation(10, 1), annotation(20, 2, segmentation=[]), annotation(30, 3)]
    root = refer(folder / "raw", refs, annotations)
    return built("refcoco", root, root / "images")[0].folder


def test_the_ledgers_of_sets_that_were_built_trained_on_or_scored(tmp_path: Path, toy: Path) -> None:
    root = launched(tmp_path / "runs", toy)
    here = lossy(root / "score-0123456789")
    pretrain_set([(here, 1.0)], [], tmp_path / "mixed")
    (root / "train-0123456789" / "config.yaml").write_text(f"data:\n  folder: {tmp_path / 'mixed'}\n")
    (tmp_path / "gone").mkdir()
    boxes(root / "score-0123456789" / "again.json", root / "train-0123456789", toy)
    report([root], root / "report.html")
    shown = text_of((root / "report.html").read_text())
    (data,) = re.findall("Data What became .* Training", shown)
    assert [str(found.folder) for found in sets_of(gather([root]))] == [str(here), str(tmp_path / "mixed"), str(toy)]
    assert f"train pictures 2 1 1 polygon 1 {NONE}" in data
    assert f"train boxes 2 1 1 polygon 1 {NONE}" in data
    assert f"val expressions 2 1 1 blank 1 {NONE}" in data
    assert data.index("refcoco Split and entries") > data.index("mixed"), "a part by its name"
    assert f"val questions 40 40 {NONE} {NONE}" in data


def test_what_a_rule_leaves_out_stands_beside_what_faults_have_cost(tmp_path: Path) -> None:
    ledger = {"val": {"expression": {"read": 9, "kept": 3, "lost": {"no box": 4, "blank": 2}, "changed": {}}}}
    (account,) = accounts_of(ledger)
    assert (account.by_fault, account.by_rule, account.lost) == ({"blank": 2}, {"no box": 4}, 2)


def test_a_set_that_is_gone_or_has_no_ledger_is_named_with_the_reason(tmp_path: Path, toy: Path) -> None:
    run = train(tmp_path / "run")
    boxes(run / "eval" / "a.json", run, toy)
    result = json.loads((run / "eval" / "a.json").read_text())
    (run / "eval" / "a.json").write_text(json.dumps(result | {"data": str(tmp_path / "gone")}))
    report([run], tmp_path / "page.html")
    assert f"{tmp_path / 'gone'}: no manifest.parquet here" in text_of((tmp_path / "page.html").read_text())
    older = Manifest.open(shutil.copytree(toy, tmp_path / "older"))
    resealed(older, {name: fact for name, fact in older.meta.items() if name != "ledger"})
    assert ledgers_of(older.folder) == Ledgers(older.folder, {}, "was built before there was a ledger")


def test_a_score_stands_beside_the_share_of_what_was_annotated(tmp_path: Path, toy: Path) -> None:
    run = train(tmp_path / "first")
    boxes(run / "eval" / "part.json", run, toy, annotated=79)
    boxes(run / "eval" / "unknown.json", run, toy, annotated=None)
    output = report([run], tmp_path / "page.html")
    shown = text_of((tmp_path / "page.html").read_text())
    assert "40 examples of 79 annotated (50.6 %), acc@0.5 75.0" in shown
    assert "40 examples, acc@0.5 75.0" in shown
    rows = [line.split() for line in output.splitlines() if "toy val" in line]
    assert [row[3:6] for row in rows] == [["40", "50.6", "%"], ["40", "-", "75.0"]]
