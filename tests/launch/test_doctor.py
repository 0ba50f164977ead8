"""The doctor's rows: how foreign packages are asked, what stands in a row, and how the command ends."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from laconvnet.launch import cli, doctor
from laconvnet.launch.doctor import apart, machine, packages, torches
from laconvnet.launch.doctor.apart import in_process
from laconvnet.launch.doctor.check import Check, PlannedRun, checked
from laconvnet.launch.doctor.torches import Version, judged


def package(folder: Path, name: str, files: dict[str, str], summary: str = "") -> None:
    """Install a package the way pip leaves it."""
    for file, text in files.items():
        (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_text(text)
    about = folder / f"{name}-9.0.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\nSummary: {summary}\n")


def test_what_stops_a_probe_is_its_last_row() -> None:
    def broken(asked: PlannedRun) -> Iterator[Check]:
        yield Check("one", "ok", "found")
        raise OSError("libcudart.so.13: cannot open\nshared object file")

    one, last = checked("torch", broken, PlannedRun())
    assert one == Check("one", "ok", "found")
    assert (last.name, last.state) == ("torch", "error")
    assert last.found == "OSError: libcudart.so.13: cannot open shared object file"


def test_packages_are_asked_in_another_process() -> None:
    checks = {check.name: check for check in in_process(["torch", "collectives", "optimizer", "kernels"])}
    import torch

    assert torch.__version__ in checks["torch"].found
    assert "Adam" in checks["optimizer"].found
    on_gpu = torch.cuda.is_available()
    assert checks["nccl" if on_gpu else "gloo"].state == "ok"
    assert checks["nccl"].state == ("ok" if on_gpu else "not there")
    assert "laconv cpu" in checks


def test_imports_that_die_or_print_leave_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    died = "import os, sys\nprint('no such driver', file=sys.stderr, flush=True)\nos.abort()"
    package(tmp_path, "deepspeed", {"__init__.py": died})
    package(tmp_path, "accelerate", {"__init__.py": "import os\nos.system('echo hello')\n__version__ = '7'"})
    package(tmp_path, "apex", {"__init__.py": "raise SystemExit('imported')"}, "Pyramid toolkit to add forms")
    first, _, second, last = in_process(["accelerate", "deepspeed", "apex"])
    assert first == Check("accelerate", "ok", "7")
    assert (second.name, second.state) == ("deepspeed", "error")
    assert second.found == "the import ended its process with -6: no such driver"
    assert (last.name, last.state) == ("apex", "warning")
    assert "apex 9.0 (Pyramid toolkit to add forms) is not NVIDIA's apex" in last.found


def test_nvidias_apex_without_its_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    files = {"__init__.py": "", "optimizers/__init__.py": "class FusedAdam: ..."}
    package(tmp_path, "apex", files, "PyTorch Extensions")
    (apex,) = in_process(["apex"])
    assert apex.state == "warning"
    assert "cannot be used: ModuleNotFoundError: No module named 'amp_C'" in apex.found


def test_a_process_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "SECONDS", 0)
    found = [(check.name, check.state, check.found) for check in in_process(["torch", "dali"])]
    assert found == [(name, "error", "no answer within 0 s") for name in ("torch", "dali")]


@pytest.mark.parametrize(
    ("built", "driver", "names", "state", "output"),
    [
        ("13.0", (13, 0), ["H100", "H100"], "ok", "2 GPU: H100"),
        ("12.8", (12, 4), ["A100"], "ok", "for CUDA up to 12.4"),  # the same major version runs
        ("12.4", (13, 0), ["A100"], "ok", "for CUDA up to 13.0"),
        ("13.0", (12, 8), [], "error", "for CUDA up to 12.8; torch needs 13.0"),
        ("10.2", (10, 1), [], "error", "torch needs 10.2"),
        ("13.0", (13, 0), [], "error", "torch finds no GPU: no device"),
        (None, (13, 0), [], "warning", "this torch has no CUDA"),
        (None, None, [], "not there", "no NVIDIA driver"),
        ("13.0", None, [], "not there", "no NVIDIA driver"),
    ],
)
def test_torchs_cuda_against_the_drivers(
    built: str | None,
    driver: tuple[int, int] | None,
    names: list[str],
    state: str,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torches, "DRIVER", tmp_path / "none")
    found = judged(built, Version(*driver) if driver else None, names, "no device")
    assert found.state == state
    assert output in found.found
    if state == "error":
        assert found.meaning


def test_a_driver_that_a_container_does_not_hand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\n")
    monkeypatch.setattr(torches, "DRIVER", tmp_path / "version")
    assert torches.driver_version() == "580.65.06"
    found = judged("13.0", None, [])
    assert (found.state, "--nv" in found.meaning) == ("error", True)
    assert "libcuda.so.1 cannot be" in found.found


def test_which_laconv_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import laconvnet.kernels
    from laconvnet.kernels import cuda

    monkeypatch.setenv("LACONVNET_KERNEL_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cuda, "find_nvcc", lambda: None)
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho built > $0.ran\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    origin, nvcc, here = packages.kernels(PlannedRun())
    assert origin == Check("laconvnet.kernels", "ok", str(laconvnet.kernels.__file__))
    assert (nvcc.state, nvcc.meaning) == ("not there", "CUDA kernels cannot be compiled here")
    assert here == Check("laconv cpu", "ok", f"C++ kernel, compiled by {compiler} at first use")
    assert list(tmp_path.iterdir()) == [compiler], "nothing is built to find out"
    monkeypatch.setenv("CXX", "no-compiler")
    _, _, here = packages.kernels(PlannedRun())
    assert (here.state, here.found) == ("warning", "plain PyTorch, several times slower")
    assert "no-compiler: no such program" in here.meaning

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: ((9, 0), (7, 5))[index])
    monkeypatch.setattr(cuda, "find_nvcc", lambda: cuda.toolchain.Nvcc(tmp_path, "13.0.88"))
    _, nvcc, _, first, second = packages.kernels(PlannedRun())
    assert (nvcc.state, nvcc.found) == ("ok", f"13.0.88 at {tmp_path}")
    assert (first.name, first.state) == ("laconv cuda:0", "ok")
    assert "CUDA kernels, compiled by nvcc 13.0.88 at first use" in first.found
    assert (second.name, second.state) == ("laconv cuda:1", "warning")
    assert all(part in second.found for part in ("plain PyTorch", "slower", "7.5 is below 8.0"))


def test_a_built_laconv_is_checked_and_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from laconvnet.kernels import cpu, cuda
    from laconvnet.kernels.cpu import build, native
    from tests.kernels.test_cuda_build import fake_nvcc

    monkeypatch.setenv("LACONVNET_KERNEL_CACHE", str(tmp_path / "cache"))
    try:
        real = build.compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    wrapper = tmp_path / "compiler"
    wrapper.write_text(f'#!/bin/sh\nexec {real} -O0 "$@" -O0\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    for function in (cpu.ready, cpu.outcome, native.library):
        function.cache_clear()
    stored = build.build()
    *_, here = packages.kernels(PlannedRun())
    assert here.state == "ok"
    assert all(part in here.found for part in (str(stored.path), "checksum ok", str(wrapper), "probe ok"))
    shorter = tmp_path / "shorter"  # the file that is loaded stays as it is: this process has it mapped
    shorter.write_bytes(stored.path.read_bytes()[:20000])
    shorter.replace(stored.path)
    *_, here = packages.kernels(PlannedRun())
    assert here.state == "warning"
    assert f"{stored.path}: damaged: 20000 bytes" in here.found
    assert "built anew" in here.meaning
    assert stored.path.stat().st_size == 20000, "nothing is built to find out"
    failed = stored.folder.with_name(f"{stored.folder.name}.failed.txt")
    failed.write_text("a.cpp:1:1: error: no")
    *_, here = packages.kernels(PlannedRun())
    assert (here.state, str(failed) in here.meaning) == ("warning", True)
    for function in (cpu.ready, cpu.outcome, native.library):
        function.cache_clear()

    nvcc = fake_nvcc(tmp_path)
    monkeypatch.setattr(cuda, "_outcomes", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(cuda, "find_nvcc", lambda: nvcc)
    built = cuda.build(["90a"], nvcc)
    *_, gpu = packages.kernels(PlannedRun())
    assert (gpu.name, gpu.state) == ("laconv cuda:0", "warning"), "it is no library, and is loaded to find out"
    assert "plain PyTorch, several times slower" in gpu.found
    assert "engine.kernels: require" in gpu.meaning
    monkeypatch.setattr(cuda, "outcome", lambda device: object())
    *_, gpu = packages.kernels(PlannedRun())
    assert gpu.state == "ok"
    assert all(
        part in gpu.found for part in (str(built.library), "checksum ok", "sm_90a", "13.0.88", "probe launch ok")
    )
    built.library.write_bytes(b"x")
    *_, gpu = packages.kernels(PlannedRun())
    assert gpu.state == "warning"
    assert f"{built.library}: damaged: 1 bytes" in gpu.found
    assert "built anew" in gpu.meaning


def test_limits_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    new = {"memory.max": ["max", "1073741824"], "cpu.max": ["50000 100000", "max 100000"]}
    monkeypatch.setattr(machine, "_control", lambda controller, file: new.get(file, []))
    assert machine.memory_limit() == 2**30
    (memory,) = machine.memory(PlannedRun())
    assert (memory.state, "1.0 GiB granted (cgroup)" in memory.found) == ("warning", True)
    assert machine.cpu_quota() == 0.5
    (cores,) = machine.processors(PlannedRun())
    assert (cores.state, "time of 0.5 of them is granted" in cores.found) == ("warning", True)
    old = {"cpu.cfs_quota_us": ["150000"], "cpu.cfs_period_us": ["100000"], "memory.limit_in_bytes": [str(2**63 - 1)]}
    monkeypatch.setattr(machine, "_control", lambda controller, file: old.get(file, []))
    assert (machine.cpu_quota(), machine.memory_limit()) == (1.5, None)


def test_limits_of_the_groups_above_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    if not lines:
        pytest.skip("this system has no control groups")
    controllers = next((names for _, names, _ in lines if "memory" in names.split(",")), None)
    root = tmp_path / "memory" if controllers else tmp_path
    root.mkdir(exist_ok=True)
    name = "memory.limit_in_bytes" if controllers else "memory.max"
    (root / name).write_text("4096\n")
    assert machine.memory_limit() == 4096


@pytest.mark.parametrize(("soft", "state"), [(256, "warning"), (4096, "ok")])
def test_open_files(soft: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, 65536))
    (found,) = machine.open_files(PlannedRun())
    assert found.state == state
    assert f"{soft:,} a process" in found.found
    assert ("ulimit -n" in found.meaning and "65,536" in found.meaning) == (state == "warning")


def test_a_small_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHARED", tmp_path / "shm")
    (found,) = machine.shared_memory(PlannedRun())
    assert (found.state, found.found) == ("warning", f"no {tmp_path / 'shm'} here")
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(machine, "LOW_SHM_GIB", 1e9)
    (found,) = machine.shared_memory(PlannedRun())
    assert (found.state, "--shm-size" in found.meaning) == ("warning", True)


def test_rows_in_order_whatever_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(asked: PlannedRun) -> Iterator[Check]:
        raise RuntimeError("no")

    monkeypatch.setattr(apart, "GROUPS", (("accelerate",),))
    monkeypatch.setattr(doctor, "HERE", {"x": broken, "python": machine.python})
    monkeypatch.setattr(apart, "SECONDS", 0)
    rows = doctor.doctor(PlannedRun())
    assert rows[0] == {
        "name": "x",
        "state": "error",
        "found": "RuntimeError: no",
        "meaning": "this check could not be made",
    }
    assert [row["name"] for row in rows] == ["x", "python", "accelerate"]
    assert rows[2]["found"] == "no answer within 0 s"


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warning", 0), ("not there", 0), ("error", 1)])
def test_exit_code(state: Any, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(apart, "GROUPS", ())
    monkeypatch.setattr(doctor, "HERE", {"x": lambda asked: iter([Check("x", state, "found it", "what to do")])})
    assert cli.main(["doctor", "--json"]) == code
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row == {"name": "x", "state": state, "found": "found it", "meaning": "what to do"}
    assert cli.main(["doctor"]) == code
    output = capsys.readouterr().out.splitlines()
    assert output[0].split() == ["name", "state", "found", "meaning"]
    assert output[1].split() == ["x", *state.split(), "found", "it", "what", "to", "do"]
    counted = {"ok": "1 ok", "warning": "1 warnings", "not there": "1 not there", "error": "1 errors"}
    following = "x: what to do" if code else "nothing stands in the way of a run"
    assert output[2:] == ["", counted[state], f"next: {following}"]


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["--processes", "0"], "--processes: 0: expected at least 1"),
        (["--config", "c.yaml"], "--config: c.yaml: expected --data too"),
        (["--data", "nowhere"], "nowhere: no manifest.parquet here"),
        (["--cluster", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_mistakes_in_what_is_asked(
    arguments: list[str],
    output: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", *arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert output in captured.err
