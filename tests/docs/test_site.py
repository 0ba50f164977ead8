"""The site builds strictly and needs no other host; its diagrams and what follows from the code are current."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import diagrams
import folders
import generate
import pytest

from laconvnet.launch.graph.entries import Entry, File
from tests.docs.pages import DOCS, ROOT

_LOADED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^"' >]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--config-file",
            "docs/site/mkdocs.yml",
            "--site-dir",
            out,
        ],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "WARNING" not in ended.stderr
    return out


def test_every_page_is_there(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).with_suffix(".html")
        assert (site / name).is_file() or (site / name.with_name("index.html")).is_file(), name


def test_no_page_loads_anything_of_another_host(site: Path) -> None:
    loaded = {page.name: _LOADED.findall(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert not {page: found for page, found in loaded.items() if found}
    assert not [sheet.name for sheet in site.rglob("*.css") if re.search(r"url\(\W?https?:", sheet.read_text("utf-8"))]


@pytest.mark.parametrize("file", generate.pages(), ids=lambda file: file.name)
def test_pages_that_follow_from_the_code_are_current(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == generate.pages()[file], "run: python docs/reference/generate.py"


@pytest.mark.parametrize("name", diagrams.drawings())
def test_diagrams_are_current(name: str) -> None:
    drawn = (DOCS / "img" / name).read_text(encoding="utf-8")
    assert drawn == diagrams.drawings()[name], "run: python docs/img/diagrams.py"


@pytest.mark.parametrize("box", [*diagrams.SAMPLE, *diagrams.STAGE], ids=lambda box: box.files[0])
def test_diagrams_name_files_that_are_there(box: diagrams.Box) -> None:
    assert not [file for file in box.files if not (ROOT / file).is_file()]


def test_the_reference_tells_of_every_command_and_key() -> None:
    commands, keys = generate.command_line(), generate.configuration()
    for name in ("shards build", "train", "launch", "doctor", "bench kernel"):
        assert f"## laconvnet {name}\n" in commands
    assert "| `--out DIR` | folder of the shard set (required) |" in commands
    assert re.search(r"\| `data.size` \| whole number \| `416` \| .*32", keys)
    assert re.search(r"\| `engine.zero` \| one of `0`, `1`, `2`, `3` \| `1` \| .* \| ✓ \|", keys)
    assert not re.search(r"\| `data.size` .* ✓ \|", keys), "a run keeps its size"


def test_every_key_of_a_stages_file_is_explained() -> None:
    page = (DOCS / "stages-file.md").read_text(encoding="utf-8")
    of_file, _, of_stage = page.partition("| key of a stage |")
    assert re.findall(r"^\| `(\w+)` \|", of_file, re.MULTILINE) == [key.name for key in fields(File)]
    output = re.findall(r"^\| `(\w+)` \|", of_stage.partition("### References")[0], re.MULTILINE)
    assert sorted(output) == sorted(key.name for key in fields(Entry))


def test_places_of_files_are_patterns() -> None:
    assert folders.known("checkpoints/step-00000002/COMMIT", folders.RUN)
    assert folders.known("train-6b70ad065e/DONE.json", folders.GRAPH)
    assert not folders.known("surprise.txt", folders.RUN, folders.STAGE)
