"""The fingerprint of a stage names its folder: every later version must find it, and find it done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconvnet.launch import cli
from laconvnet.launch.graph.stages import read

FOLDER = Path(__file__).parent / "fingerprints"
# As version 0.1 computed them from these files, `--set pictures=200`.
FINGERPRINTS = {
    "generate": "0d2aa0c141",
    "refcoco": "924aea73c6",
    "refcoco-plus": "d97bbcde1d",
    "visual_genome": "b558719196",
    "clevr": "d5fc48b7b6",
    "mixed": "0894276e1c",
    "pretrain": "89e0952f2d",
    "finetune-rec": "6b80de7a2f",
    "finetune-vqa": "74881a0aaa",
    "words-only": "7856b6ea82",
    "eval-rec": "9f3981d1b8",
    "eval-rec-novel": "afcaa3f7ee",
    "eval-vqa": "78aea91674",
    "eval-words-only": "cd87c7b20b",
    "readings": "9940e5d660",
    "share-refcoco": "32d2ec855a",
    "share-refcoco-plus": "914cb56dd2",
    "report": "862c41e7e5",
}


def test_stages_are_called_what_they_were_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    found = {stage.name: stage.fingerprint for stage in read("stages.yaml", given={"pictures": "200"}).stages}
    assert found == FINGERPRINTS


def test_a_graph_that_version_0_1_has_done_launches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(FOLDER)
    for name, fingerprint in FINGERPRINTS.items():
        folder = tmp_path / f"{name}-{fingerprint}"
        (folder / "jobs").mkdir(parents=True)
        done = {"stage": name, "identity": fingerprint, "started": 1.0, "ended": 2.0, "seconds": 1.0, "version": "0.1"}
        (folder / "DONE.json").write_text(json.dumps(done))
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*") if path.is_file()}
    assert cli.main(["launch", "stages.yaml", "--set", "pictures=200", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().err
    assert "running" not in output
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*") if path.is_file()} == before
    assert not list(tmp_path.glob("*/job.json"))
