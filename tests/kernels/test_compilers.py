"""A compiler's verdict on the sources, and what is only an accident that befell it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from laconvnet.kernels import compilers
from laconvnet.kernels.compilers import CompilerError


def script(folder: Path, lines: str) -> Path:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("lines", "verdict", "words"),
    [
        ("echo 'a.cpp:3:1: error: no type'; exit 1", True, "a.cpp:3:1: error: no type"),
        ("echo 'a.cu(3): error: no type' >&2; exit 2", True, "a.cu(3): error: no type"),
        ("echo 'ptxas error   : Entry function uses too much shared data'; exit 255", True, "too much shared data"),
        ("echo 'ptxas error   : Entry function uses too much shared data'; exit 2", True, "too much shared data"),
        ("kill -9 $$", False, "signal 9"),
        ("echo 'error: x'; exit 137", False, "error: x"),
        ("echo \"nvcc error   : 'cicc' died due to signal 9 (Kill signal)\"; exit 9", False, "died due to signal"),
        ("echo 'g++: fatal error: Killed signal terminated program cc1plus'; exit 1", False, "Killed signal"),
        ("echo 'cc1plus: error: out of memory allocating 65536 bytes'; exit 1", False, "out of memory"),
        ("echo 'a.s: error: No space left on device'; exit 1", False, "No space left"),
        ("echo 'nvcc fatal   : Could not open output file'; exit 1", False, "Could not open"),
        ("echo 'nvcc warning : nothing'; exit 1", False, "nothing"),
        ("exit 1", False, "exit code 1"),
        ("sleep 20", False, "no end after 0.5 s"),
    ],
)
def test_what_is_a_verdict(lines: str, verdict: bool, words: str, tmp_path: Path) -> None:
    with pytest.raises(CompilerError) as caught:
        compilers.run([script(tmp_path, lines)], 0.5)
    assert caught.value.verdict == verdict
    assert words in str(caught.value)
    assert caught.value.no_room == ("No space" in lines)


def test_a_compiler_whose_helpers_outlive_it_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(CompilerError):
        compilers.run([script(tmp_path, "sleep 30 & sleep 30")], 0.2)
    assert time.monotonic() - began < 15
