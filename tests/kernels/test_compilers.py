"""No test of the kernels is skipped for want of a compiler where CI says that none may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.kernels.cuda import toolchain
from tests.kernels import compilers


def test_a_missing_compiler_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: None)
    monkeypatch.setattr(compilers, "_packaged", lambda package, program: [])
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    for needed in (compilers.nvcc, compilers.pinned_nvcc, compilers.nvdisasm, compilers.gxx, compilers.cxx):
        monkeypatch.setenv(compilers.REQUIRE, "1")
        with pytest.raises(pytest.fail.Exception, match=compilers.REQUIRE):
            needed()
        monkeypatch.delenv(compilers.REQUIRE)
        with pytest.raises(pytest.skip.Exception):
            needed()


def test_ci_wants_all_of_them() -> None:
    script = Path(__file__).parents[2] / ".ci" / "run"
    assert f"export {compilers.REQUIRE}=1" in script.read_text().splitlines()
