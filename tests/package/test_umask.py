"""Who may read what the programs write is said by the umask: a group shares a folder of sets and runs."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from laconvnet import files
from laconvnet.launch.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=[0o002, 0o027])
def rights(request: pytest.FixtureRequest) -> Iterator[int]:
    """What files are to have while such a umask holds."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def modes(folder: Path) -> dict[int, list[str]]:
    """Rights -> the files that have them."""
    found: dict[int, list[str]] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found.setdefault(path.stat().st_mode & 0o777, []).append(path.name)
    return found


def test_what_is_published_follows_it(tmp_path: Path, rights: int) -> None:
    files.publish_text(tmp_path / "a", "a")
    files.publish_json(tmp_path / "b", {}, first=True)
    with files.publishing_folder(tmp_path / "c") as partial:
        (partial / "d").touch()
    assert set(modes(tmp_path)) == {rights}


def test_raw_data_sets_and_stages_follow_it(tmp_path: Path, rights: int) -> None:
    (tmp_path / "stages.yaml").write_text(
        f"""
        folder: {tmp_path}/out
        stages:
          raw: {{run: [shards, generate, --out, "{{here}}/raw", --pictures, "4", --size, "32"]}}
          set: {{run: [shards, build, refcoco, --root, "{{raw}}/raw/refer", --out, "{{here}}/set"]}}
          both: {{run: [shards, pretrain-set, --inputs, "{{set}}/set", --out, "{{here}}/set"]}}
        """
    )
    assert main(["launch", str(tmp_path / "stages.yaml")]) == 0
    found = modes(tmp_path)
    assert {"manifest.parquet", "shard-000000.tar", "refs(unc).p", "DONE.json", "graph.json"} <= {*found[rights]}
    assert set(found) == {rights}


def test_no_file_is_made_by_what_makes_private_ones() -> None:
    private = ("mkstemp", "NamedTemporaryFile")  # 0600 whatever the umask, and so after a rename
    found = [
        str(file)
        for room in ("laconvnet", "launch", "pipeline", "shards", "kernels", "configs")
        for file in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.alias) and getattr(node, "attr", getattr(node, "name", "")) in private
    ]
    assert found == []
