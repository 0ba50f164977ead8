"""`laconvnet kernels build`, by a compiler that only pretends."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from laconvnet.kernels import cpu, cuda
from laconvnet.kernels.cpu import build, native
from laconvnet.kernels.cuda import toolchain
from laconvnet.launch.cli import main
from tests.kernels import compilers
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
    monkeypatch.setenv("CXX", "no-such-compiler")


def test_builds_and_shows_what_the_kernels_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "build", "--arch", "90a", "--arch", "80", "--verbose", "--json"]) == 0
    captured = capsys.readouterr()
    built, kernel = map(json.loads, captured.out.splitlines())
    assert built["architectures"] == ["80", "90a"]
    assert built["codes"] == ["sm_80", "sm_90a", "compute_80"]
    assert built["nvcc"] == "13.0.88"
    assert built["sha256"] == hashlib.sha256(Path(built["library"]).read_bytes()).hexdigest()
    assert built["probe"] == {}
    assert built["cpu"].startswith("plain PyTorch: CXX: no-such-compiler")
    assert Path(built["library"]).stat().st_size == built["bytes"]
    assert (kernel["sm"], kernel["registers"], kernel["spills"], kernel["shared"]) == ("90a", 40, 0, 512)
    assert "compiling CUDA kernels for sm_80, sm_90a" in captured.err
    assert main(["kernels", "build", "--arch", "80", "--arch", "90a"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert built["library"] in captured.out
    assert "no GPU" in captured.out


def test_a_failed_build_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiler = tmp_path / "bin" / "nvcc"
    version = 'case "$*" in *--version*) echo "release 13.0, V13.0.88"; exit;; esac'
    compiler.write_text(f"#!/bin/sh\n{version}\necho 'error: no such type'; exit 1\n")
    assert main(["kernels", "build", "--arch", "80"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("laconvnet: error: no such type; all its words: ")


def test_the_probe_s_result_is_told_and_decides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: ((9, 0), (9, 0), (7, 5))[index])
    outcomes: dict[int, object] = {0: object(), 1: "the probe launch failed: error 35"}
    monkeypatch.setattr(cuda, "outcome", lambda device: outcomes[device.index])
    assert main(["kernels", "build", "--json"]) == 1
    built = json.loads(capsys.readouterr().out)
    assert built["architectures"] == ["90a"]
    assert built["probe"] == {"cuda:0": "ok", "cuda:1": "the probe launch failed: error 35"}
    outcomes[1] = object()
    assert main(["kernels", "build", "--json"]) == 0


def test_the_library_of_the_cpu_is_built_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CXX")
    real = compilers.cxx()
    wrapper = tmp_path / "compiler"
    wrapper.write_text(f'#!/bin/sh\nexec {real} -O0 "$@" -O0\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    for function in (cpu.ready, cpu.outcome, native.library):
        function.cache_clear()
    assert main(["kernels", "build", "--arch", "80", "--json"]) == 0
    stored = build.find()
    assert stored is not None
    assert json.loads(capsys.readouterr().out)["cpu"] == f"{stored.path}, by {wrapper}"
    for function in (cpu.ready, cpu.outcome, native.library):
        function.cache_clear()


def test_no_compiler_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(toolchain, "_candidates", list)
    assert main(["kernels", "build", "--arch", "80"]) == 1
    assert "laconvnet: no nvcc under CUDA_HOME" in capsys.readouterr().err
