"""The C++ kernel is compiled once, and where it cannot be, one warning says why and plain PyTorch serves."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from laconvnet import kernels
from laconvnet.kernels import cpu, plain
from laconvnet.kernels.backend import backend
from laconvnet.kernels.cpu import build, native
from tests.kernels import compilers

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and nothing remembered of an earlier build."""
    monkeypatch.setenv("LACONVNET_KERNEL_CACHE", str(tmp_path / "cache"))
    for function in (cpu.ready, native.library):
        function.cache_clear()
    yield tmp_path / "cache" / "cpu"
    for function in (cpu.ready, native.library):
        function.cache_clear()


def compiler(folder: Path, lines: str) -> Path:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


def test_compiled_once(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = compilers.cxx()
    wrapper = compiler(tmp_path, f'echo run >> {tmp_path}/runs\nexec {real} -O0 "$@" -O0')
    monkeypatch.setenv("CXX", str(wrapper))
    assert cpu.ready() is native
    assert backend(CPU, torch.float32) is native
    assert backend(CPU, torch.bfloat16) is native
    assert backend(CPU, torch.float64) is plain
    cpu.ready.cache_clear()
    native.library.cache_clear()
    assert cpu.ready() is native
    assert (tmp_path / "runs").read_text() == "run\n"
    assert [path.suffix for path in fresh.iterdir()] == [".so"]  # no litter


def test_other_flags_or_another_source_give_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = str(compiler(tmp_path, "exit 0"))
    names = {build._fingerprint(program)}
    monkeypatch.setattr(build, "_processor", lambda: "another")
    names.add(build._fingerprint(program))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    names.add(build._fingerprint(program))
    changed = tmp_path / "changed"
    shutil.copytree(build.SOURCES, changed)
    (changed / "rows.h").write_text("// changed")
    monkeypatch.setattr(build, "SOURCES", changed)
    names.add(build._fingerprint(program))
    assert len(names) == 4


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("echo 'error: no such flag' >&2; exit 3", "exit code 3: error: no such flag"),
        ("exit 1", "exit code 1: said nothing"),
        ('while [ "$1" != -o ]; do shift; done; echo no library > "$2"', "dynamic_conv-"),
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


@pytest.mark.parametrize("refused", ["mkdir", "touch"])
def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    real = compilers.cxx()
    monkeypatch.setenv("CXX", str(compiler(tmp_path, f'exec {real} -O0 "$@" -O0')))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, refused, refuse)
    assert build.library().laconv_cpu_forward
    assert list((tmp_path / "temporary").iterdir()) == []
