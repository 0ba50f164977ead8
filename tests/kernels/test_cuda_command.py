"""`laconvnet kernels build`, by a compiler that only pretends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laconvnet.kernels.cuda import toolchain
from laconvnet.launch.cli import main
from tests.kernels.test_cuda_build import fake_nvcc

PTXAS = """ptxas info    : Compiling entry function '_ZN6laconv4testEv' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 512 bytes smem
"""


@pytest.fixture(autouse=True)
def _compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = fake_nvcc(tmp_path)
    nvcc.path.write_text(nvcc.path.read_text() + f'cat << "END"\n{PTXAS}END\n')
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("LACONVNET_KERNEL_CACHE", str(tmp_path / "cache"))


def test_builds_and_shows_what_the_kernels_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "build", "--arch", "90a", "--arch", "80", "--verbose", "--json"]) == 0
    captured = capsys.readouterr()
    built, kernel = map(json.loads, captured.out.splitlines())
    assert built["architectures"] == ["80", "90a"]
    assert built["nvcc"] == "13.0.88"
    assert Path(built["library"]).stat().st_size == built["bytes"]
    assert (kernel["sm"], kernel["registers"], kernel["spills"], kernel["shared"]) == ("90a", 40, 0, 512)
    assert "compiling CUDA kernels for sm_80, sm_90a" in captured.err
    assert main(["kernels", "build", "--arch", "80", "--arch", "90a"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert built["library"] in captured.out


def test_a_failed_build_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiler = tmp_path / "bin" / "nvcc"
    version = 'case "$*" in *--version*) echo "release 13.0, V13.0.88"; exit;; esac'
    compiler.write_text(f"#!/bin/sh\n{version}\necho 'error: no room'; exit 1\n")
    assert main(["kernels", "build", "--arch", "80"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("laconvnet: error: no room; all its words: ")


def test_no_compiler_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(toolchain, "_candidates", list)
    assert main(["kernels", "build", "--arch", "80"]) == 1
    assert "laconvnet: no nvcc under CUDA_HOME" in capsys.readouterr().err
