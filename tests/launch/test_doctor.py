from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from launch import doctor
from launch.doctor import Check, in_process, run_probe


def package(folder: Path, name: str, files: dict[str, str], summary: str = "") -> None:
    """Install a package the way pip leaves it."""
    for file, text in files.items():
        (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_text(text)
    about = folder / f"{name}-9.0.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\nSummary: {summary}\n")


def test_probes_of_this_machine() -> None:
    checks = [check for name in doctor.HERE for check in run_probe(name)]
    found = {check.name: check for check in checks}
    assert {
        "python",
        "machine",
        "disk here",
        "shared memory",
        "rename",
        "flock",
        "slurm",
        "c++ compiler",
    } <= found.keys()
    assert found["python"].state == "ok"
    assert (found["rename"].state, found["flock"].state) == ("ok", "ok")
    assert "cores" in found["machine"].detail
    assert all(check.state in ("ok", "warn", "fail") and "\n" not in check.detail for check in checks)


def test_probes_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_probe("files")
    assert list(tmp_path.iterdir()) == []


def test_a_probe_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Check]:
        raise OSError("libcudart.so.13: cannot open\nshared object file")

    monkeypatch.setitem(doctor.PROBES, "torch", broken)
    wanted = "OSError: libcudart.so.13: cannot open shared object file"
    assert run_probe("torch") == [Check("torch", "fail", wanted)]


def test_torch_is_asked_in_another_process() -> None:
    checks = {check.name: check for check in in_process("torch")}
    import torch

    assert torch.__version__ in checks["torch"].detail
    assert "apex" in checks["optimizer"].detail
    assert checks["cuda"].state == ("ok" if torch.cuda.is_available() else "warn")


def test_which_laconv_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from kernels import cpu, cuda

    monkeypatch.setattr(cpu, "ready", lambda: warnings.warn("laconv: plain PyTorch serves the CPU", stacklevel=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cuda, "find_nvcc", lambda: None)
    checks = run_probe("kernels")
    assert checks[0] == Check("nvcc", "warn", "not found: CUDA kernels cannot be compiled here")
    assert checks[1:] == [Check("laconv cpu", "warn", "laconv: plain PyTorch serves the CPU")]

    monkeypatch.setenv("LACONVNET_KERNEL_CACHE", str(tmp_path))
    monkeypatch.setattr(cpu, "ready", lambda: cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: ((9, 0), (7, 5))[index])
    monkeypatch.setattr(cuda, "find_nvcc", lambda: cuda.toolchain.Nvcc(tmp_path, "13.0.88"))
    nvcc, here, first, second = run_probe("kernels")
    assert (nvcc.state, nvcc.detail) == ("ok", f"13.0.88 at {tmp_path}")
    assert (here.name, here.state) == ("laconv cpu", "ok")
    assert (first.name, first.state) == ("laconv cuda:0", "ok")
    assert "CUDA kernels, compiled by nvcc 13.0.88 at first use" in first.detail
    assert (second.name, second.state) == ("laconv cuda:1", "warn")
    assert "plain PyTorch, several times slower: compute capability 7.5 is below 8.0" in second.detail


def test_imports_that_die_or_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    died = "import os, sys\nprint('no such driver', file=sys.stderr, flush=True)\nos.abort()"
    package(tmp_path, "deepspeed", {"__init__.py": died})
    assert in_process("deepspeed") == [
        Check("deepspeed", "fail", "the import ended its process with -6: no such driver")
    ]
    package(tmp_path, "accelerate", {"__init__.py": "import os\nos.system('echo hello')\n__version__ = '7'"})
    assert in_process("accelerate")[0] == Check("accelerate", "ok", "7")


def test_the_other_apex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    package(tmp_path, "apex", {"__init__.py": "raise SystemExit('imported')"}, "Pyramid toolkit to add forms")
    (apex,) = in_process("apex")
    assert apex.state == "warn"
    assert "apex 9.0 (Pyramid toolkit to add forms) is not NVIDIA's apex" in apex.detail


def test_nvidias_apex_without_its_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    package(
        tmp_path, "apex", {"__init__.py": "", "optimizers/__init__.py": "class FusedAdam: ..."}, "PyTorch Extensions"
    )
    (apex,) = in_process("apex")
    assert apex.state == "warn"
    assert "cannot be used: ModuleNotFoundError: No module named 'amp_C'" in apex.detail


def test_rows_in_order_whatever_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Check]:
        raise RuntimeError("no")

    monkeypatch.setattr(doctor, "APART", ("accelerate",))
    monkeypatch.setattr(doctor, "HERE", ("x", "python"))
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0)
    monkeypatch.setitem(doctor.PROBES, "x", broken)
    rows = doctor.doctor()
    assert rows[0] == {"name": "x", "state": "fail", "detail": "RuntimeError: no"}
    assert [row["name"] for row in rows] == ["x", "python", "accelerate"]
    assert rows[2]["detail"] == "no answer within 0 s"


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_exit_code(state: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "APART", ())
    monkeypatch.setattr(doctor, "HERE", ("python", "x"))
    monkeypatch.setitem(doctor.PROBES, "x", lambda: [Check("x", state, "why")])
    assert doctor.show(as_json=True) == code
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[1] == {"name": "x", "state": state, "detail": "why"}
    assert doctor.show() == code
    assert f"x       {state.ljust(5)}  why" in capsys.readouterr().out
