"""The identity of a stage names its folder: every later version must find it."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.launch.graph.stages import read

FOLDER = Path(__file__).parent / "fingerprints"
# As version 0.1 computed them from these files, `--set pictures=200`.
IDENTITIES = {
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
    assert found == IDENTITIES
