"""What compilers make for the tests is made again where it would be another, and only there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kernels import compiled

SCRIPT = """#!/bin/sh
if [ "$1" = --version ]; then echo 1.0; exit; fi
echo "$*" >> {folder}/calls
[ "$1" = -bad ] && echo "error: no such type" && exit 1
while [ "$1" != -o ]; do shift; done
echo "made by $0" > "$2"
echo words
"""


@pytest.fixture
def compiler(tmp_path: Path) -> str:
    path = tmp_path / "compiler"
    path.write_text(SCRIPT.format(folder=tmp_path))
    path.chmod(0o755)
    return str(path)


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text().splitlines())


def test_the_same_is_made_once(compiler: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = {*pool.map(lambda _: compiled.compiled("a.o", [compiler, "a.cu"], tmp_path / "kept"), range(4))}
    (path,) = made
    assert path.read_text() == f"made by {compiler}\n"
    assert path.with_suffix(".txt").read_text() == "words\n"
    assert calls(tmp_path) == 1


def test_other_flags_versions_and_sources_are_others(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*flags: str) -> Path:
        return compiled.compiled("a.o", [compiler, *flags, "a.cu"], tmp_path / "kept")

    paths = {made(), made("-O1")}
    monkeypatch.setattr(compiled, "_version", lambda compiler: "2.0")
    paths.add(made())
    monkeypatch.setattr(compiled, "_sources", lambda: "other")
    paths.add(made())
    assert len(paths) == calls(tmp_path) == 4


def test_a_failure_gives_the_compilers_words_and_is_not_kept(compiler: str, tmp_path: Path) -> None:
    for count in (1, 2):
        with pytest.raises(AssertionError, match="no such type"):
            compiled.compiled("a.o", [compiler, "-bad", "a.cu"], tmp_path / "kept")
        assert calls(tmp_path) == count
