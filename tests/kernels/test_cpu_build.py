"""The C++ kernel is compiled once, and where it cannot be, one warning says why and plain PyTorch serves."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from laconvnet import kernels
from laconvnet.kernels import cpu, folders, plain
from laconvnet.kernels.backend import Choice, KernelsMissing, backend, choose, in_use
from laconvnet.kernels.cpu import build, native
from tests.kernels import compilers

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and nothing remembered of an earlier build."""
    monkeypatch.setenv("LACONVNET_KERNEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folders, "_said", set())
    forget()
    yield tmp_path / "cache"
    forget()
    choose("auto")


def forget() -> None:
    for function in (cpu.ready, cpu.outcome, native.library):
        function.cache_clear()


@pytest.fixture
def real() -> str:
    return compilers.cxx()


def compiler(folder: Path, lines: str) -> Path:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


def test_compiled_once(real: str, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = compiler(tmp_path, f'echo run >> {tmp_path}/runs\nexec {real} -O0 "$@" -O0')
    monkeypatch.setenv("CXX", str(wrapper))
    assert cpu.ready() is native
    assert backend(CPU, torch.float32) is native
    assert backend(CPU, torch.bfloat16) is native
    assert backend(CPU, torch.float64) is plain
    forget()
    assert cpu.ready() is native
    assert (tmp_path / "runs").read_text() == "run\n"
    (folder,) = (path for path in fresh.iterdir() if path.is_dir())
    assert sorted(path.name for path in folder.iterdir()) == [build.LIBRARY, "manifest.json"]  # no litter
    assert build.damage() is None
    monkeypatch.setenv("CXX", "nowhere")
    assert build.find() is not None, "where it is built, no compiler is needed"


def test_other_flags_or_another_source_give_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = str(compiler(tmp_path, "exit 0"))
    names = {build._name(program)}
    monkeypatch.setattr(build, "_processor", lambda: "another")
    names.add(build._name(program))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    names.add(build._name(program))
    changed = tmp_path / "changed"
    shutil.copytree(build.SOURCES, changed)
    (changed / "rows.h").write_text("// changed")
    monkeypatch.setattr(build, "SOURCES", changed)
    names.add(build._name(program))
    assert len(names) == 4


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("echo 'error: no such flag' >&2; exit 3", "error: no such flag; all its words: "),
        ("exit 1", "exit code 1: "),
        ("kill -9 $$", "signal 9"),
        ('while [ "$1" != -o ]; do shift; done; echo no library > "$2"', "liblaconv_cpu.so"),
        (None, "CXX: nowhere: no such program"),
    ],
)
def test_one_warning_and_plain_pytorch(
    lines: str | None, message: str, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, lines)) if lines else "nowhere")
    with pytest.warns(UserWarning, match="plain PyTorch serves the CPU, several times slower: ") as warned:
        assert backend(CPU, torch.float32) is plain
    assert len(warned) == 1
    assert message in str(warned[0].message)
    x, filters = torch.randn(1, 4, 5, 6), torch.randn(1, 18, 5, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said
        out = kernels.dynamic_conv(x, filters, 3, 2)
    torch.testing.assert_close(out, plain.dynamic_conv(x, filters, 3, 2, False))


def test_running_out_of_memory_is_an_error() -> None:
    with pytest.raises(MemoryError, match="laconv: out of memory on the CPU"):
        native._done(1)


def test_no_compiler_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler \(c\+\+, g\+\+, clang\+\+; or CXX\)"):
        build.compiler()


@pytest.mark.parametrize("size", [0, 100, 20000])
def test_a_damaged_library_is_named_and_built_anew(
    size: int, real: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, f'exec {real} -O0 "$@" -O0')))
    first = build.build()
    os.truncate(first.path, size)
    assert f"{first.path}: damaged: {size} bytes" in (build.damage() or "")
    assert cpu.ready() is native
    assert build.damage() is None
    assert f"{first.path}: damaged: {size} bytes" in capsys.readouterr().err


CPUINFO = """processor	: {number}
model name	: Some Processor
cpu MHz		: {mhz}
flags		: fpu sse2 avx2{more}
"""


def test_machines_that_share_a_cache_load_their_own_code(
    real: str, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, f'exec {real} -O0 "$@" -O0')))
    monkeypatch.setattr(build, "CPUINFO", tmp_path / "cpuinfo")

    def become(more: str, mhz: int = 2000) -> None:
        both = (CPUINFO.format(number=number, mhz=mhz + number, more=more) for number in range(2))
        build.CPUINFO.write_text("\n".join(both))

    become(" avx512f")
    wide = build.build()
    assert "avx512f" in wide.made_from["processor"]
    assert "-march=native" in wide.made_from["flags"] or "-mcpu=native" in wide.made_from["flags"]
    become("")
    assert build.find() is None, "a machine without these instructions does not load them"
    monkeypatch.setenv("CXX", "nowhere")
    assert build.find() is None
    monkeypatch.setenv("CXX", str(tmp_path / "compiler"))
    narrow = build.build()
    assert narrow.path != wide.path
    assert build.find() == narrow
    become(" avx512f", mhz=3000)
    assert build.find() == wide


@pytest.mark.parametrize("result", ["wrong", "error"])
def test_a_library_that_does_not_compute_right_is_not_taken(
    result: str, real: str, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, f'exec {real} -O0 "$@" -O0')))

    def wrong(x: torch.Tensor, *rest: object) -> torch.Tensor:
        if result == "error":
            raise RuntimeError("launch failed")
        return torch.zeros_like(x)

    monkeypatch.setattr(native, "dynamic_conv", wrong)
    with pytest.warns(UserWarning, match="probe launch (failed: launch failed|gave wrong numbers)"):
        assert backend(CPU, torch.float32) is plain


def test_required_kernels_that_cannot_be_had_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "nowhere")
    choose("require")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KernelsMissing, match=r"laconv on cpu: .*CXX: nowhere"):
            backend(CPU, torch.float32)
        found = in_use(CPU)
    assert (found.compiled, found.kind) == (False, "plain")
    assert "CXX: nowhere" in found.reason
    assert backend(CPU, torch.float64) is plain, "which has no other"
    choose("plain")
    assert backend(CPU, torch.float32) is plain


def test_what_is_chosen_is_what_runs(real: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, f'exec {real} -O0 "$@" -O0')))
    choose("plain")
    assert backend(CPU, torch.float32) is plain
    assert not in_use(CPU).compiled
    assert native.library.cache_info().currsize == 0, "nothing is compiled for it"
    choices: tuple[Choice, ...] = ("auto", "require")
    for choice in choices:
        choose(choice)
        assert backend(CPU, torch.float32) is native
        assert (in_use(CPU).compiled, in_use(CPU).kind) == (True, "compiled")
        assert build.LIBRARY in in_use(CPU).words
