"""What this machine has and what of it the pipeline would use: one check a line, each naming the exact error it met.

Imports of foreign packages happen in processes of their own: one that aborts, hangs or prints does not take the others
with it. `python -m launch.doctor PROBE` is such a process.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.screen import table
from launch.stages import cores

GIB = 2**30
PROBE_SECONDS = 120
LOW_DISK_GIB, LOW_SHM_GIB = 10.0, 1.0


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    state: str  # ok, warn (works, with less) or fail (cannot work)
    detail: str


def doctor() -> list[dict[str, str]]:
    """Every check as `name`, `state`, `detail`, in a fixed order.

    Never raises: a probe that does becomes a failed check with its error.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        apart = [pool.submit(in_process, name) for name in APART]
        here = [check for name in HERE for check in run_probe(name)]
        return [asdict(check) for check in here + [check for future in apart for check in future.result()]]


def show(as_json: bool = False) -> int:
    """Print the checks to standard output; 1 if any fails, else 0."""
    checks = doctor()
    if as_json:
        print("\n".join(json.dumps(check) for check in checks))
    else:
        print(table(checks, {"name": "check", "state": "state", "detail": "detail"}))
    return int(any(check["state"] == "fail" for check in checks))


def run_probe(name: str) -> list[Check]:
    """The checks of one probe in this process."""
    try:
        return list(PROBES[name]())
    except Exception as error:  # whatever a foreign package raises is the finding
        return [Check(name, "fail", f"{type(error).__name__}: {' '.join(str(error).split())}")]


def in_process(name: str) -> list[Check]:
    """The checks of one probe in a process of its own."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "launch.doctor", name]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env=os.environ | {"PYTHONPATH": path},
            check=False,
        )
        return [Check(**row) for row in map(json.loads, done.stdout.splitlines())] or [_died(name, done)]
    except subprocess.TimeoutExpired:
        return [Check(name, "fail", f"no answer within {PROBE_SECONDS} s")]
    except (OSError, ValueError, TypeError) as error:
        return [Check(name, "fail", f"{type(error).__name__}: {error}")]


def _died(name: str, done: subprocess.CompletedProcess[str]) -> Check:
    said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing on standard error"]
    return Check(name, "fail", f"the import ended its process with {done.returncode}: {said[-1].strip()}")


def _python() -> Iterator[Check]:
    state = "ok" if sys.version_info >= (3, 11) else "fail"
    yield Check("python", state, f"{platform.python_version()} at {sys.executable}; 3.11 or newer is needed")


def _machine() -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{cores()} cores, {memory.total / GIB:.1f} GiB memory, {memory.available / GIB:.1f} GiB of it available"
    yield Check("machine", "ok", detail)


def _disk() -> Iterator[Check]:
    for name, folder in (("disk here", Path.cwd()), ("disk temporary", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free / GIB
        yield Check(name, "ok" if free >= LOW_DISK_GIB else "warn", f"{free:.1f} GiB free at {folder}")
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total / GIB
        hint = "" if size >= LOW_SHM_GIB else "; NCCL between GPUs of one machine wants 1 GiB (docker: --shm-size)"
        yield Check("shared memory", "warn" if hint else "ok", f"{size:.2f} GiB at {shared}{hint}")
    else:
        yield Check("shared memory", "warn", f"no {shared} here")


def _files() -> Iterator[Check]:
    """Publishing rests on rename replacing a file at once, one launch at a time on flock excluding a second."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".doctor-") as name:
        old, new = Path(name, "old"), Path(name, "new")
        old.write_text("old")
        new.write_text("new")
        new.replace(old)
        renamed = old.read_text() == "new" and not new.exists()
        with old.open() as first, old.open() as second:
            fcntl.flock(first, fcntl.LOCK_EX)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = False
            except BlockingIOError:
                locked = True
    yield Check("rename", "ok" if renamed else "fail", f"{'replaces' if renamed else 'does not replace'} a file here")
    detail = "excludes a second holder here" if locked else "does not exclude a second holder here: do not launch twice"
    yield Check("flock", "ok" if locked else "warn", detail)


def _slurm() -> Iterator[Check]:
    commands = {name: shutil.which(name) for name in ("sinfo", "sbatch", "squeue")}
    missing = [name for name, path in commands.items() if path is None]
    if missing:
        yield Check("slurm", "warn", f"{', '.join(missing)} not found: only --cluster local")
        return
    done = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, timeout=30, check=False)
    yield Check("slurm", "ok" if done.returncode == 0 else "warn", " ".join((done.stdout or done.stderr).split()))


def _compiler() -> Iterator[Check]:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        yield Check("c++ compiler", "warn", f"none of {', '.join(names)} found: nothing can be compiled at run time")
    else:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
        first = (done.stdout or done.stderr).splitlines() or [f"exit code {done.returncode}"]
        yield Check("c++ compiler", "ok" if done.returncode == 0 else "warn", f"{path}: {first[0]}")


def _torch() -> Iterator[Check]:
    import torch

    yield Check("torch", "ok", f"{torch.__version__}, built for CUDA {torch.version.cuda or 'no'}")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Check("cuda", "ok", f"driver {_driver()}, {len(names)} GPU: {', '.join(names)}")
    elif torch.version.cuda is None:
        yield Check("cuda", "warn", f"this torch has none (driver {_driver()}): the CPU is used")
    else:
        yield Check("cuda", "warn", f"torch finds no GPU (driver {_driver()}): the CPU is used")
    # Asked of the function that decides it in a run.
    from pipeline.training.optimizer import has_apex

    if not torch.cuda.is_available():
        yield Check("optimizer", "ok", "torch Adam, fused: there is no GPU for apex")
    elif has_apex():
        yield Check("optimizer", "ok", "apex FusedAdam: a GPU and NVIDIA's apex are there")
    else:
        yield Check("optimizer", "ok", "torch Adam, fused: NVIDIA's apex is not there")


def _kernels() -> Iterator[Check]:
    """Which implementation of LaConv a run would take, and why."""
    import torch

    from kernels import cpu, cuda

    nvcc = cuda.find_nvcc()
    if nvcc:
        yield Check("nvcc", "ok", f"{nvcc.version} at {nvcc.path}")
    else:
        yield Check("nvcc", "warn", "not found: CUDA kernels cannot be compiled here")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        compiled = cpu.ready() is not None
    why = "; ".join(str(one.message) for one in told)
    yield Check("laconv cpu", "ok" if compiled else "warn", "C++ kernel, compiled" if compiled else why)
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        plan = cuda.plan(torch.cuda.get_device_capability(index))
        yield Check(f"laconv cuda:{index}", "ok" if plan.fast else "warn", plan.words())


def _driver() -> str:
    file = Path("/proc/driver/nvidia/version")
    words = file.read_text().split("\n")[0].split() if file.exists() else []
    return next((word for word in words if word[0].isdigit() and "." in word), "not loaded")


def _deepspeed() -> Iterator[Check]:
    version = importlib.import_module("deepspeed").__version__
    yield Check("deepspeed", "ok", f"{version}")


def _accelerate() -> Iterator[Check]:
    yield Check("accelerate", "ok", f"{importlib.import_module('accelerate').__version__}")
    try:
        yield Check("transformers", "ok", f"{importlib.metadata.version('transformers')}")
    except importlib.metadata.PackageNotFoundError:
        detail = "not installed: accelerate's DeepSpeed plugin asks for its version and fails; install transformers"
        yield Check("transformers", "fail", detail)


def _dali() -> Iterator[Check]:
    dali = importlib.import_module("nvidia.dali")
    importlib.import_module("nvidia.dali.fn")
    import torch

    backend = "mixed (decodes on the GPU)" if torch.cuda.is_available() else "cpu (no GPU found)"
    yield Check("dali", "ok", f"{dali.__version__}, backend {backend}")


def apex_kind() -> tuple[str, str]:
    """What is installed under the name apex: ("nvidia" | "unrelated" | "none", what it says of itself).

    Imports nothing. The package index gives the name to a web toolkit; NVIDIA's has the folder `optimizers`.
    """
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return "none", "not installed"
    about = f"module at {spec.origin or ', '.join(spec.submodule_search_locations or [])}"
    try:
        found = importlib.metadata.metadata("apex")
        about = f"{found['Name']} {found['Version']} ({found['Summary'] or 'no summary'})"
    except importlib.metadata.PackageNotFoundError:
        pass
    places = spec.submodule_search_locations or []
    return ("nvidia" if any(Path(place, "optimizers").is_dir() for place in places) else "unrelated"), about


def _apex() -> Iterator[Check]:
    kind, about = apex_kind()
    if kind == "none":
        yield Check("apex", "ok", "not installed; it is optional")
    elif kind == "unrelated":
        detail = f"{about} is not NVIDIA's apex, only its name is the same; it is not used, uninstall it"
        yield Check("apex", "warn", detail)
    else:
        try:
            importlib.import_module("amp_C")
            fused = hasattr(importlib.import_module("apex.optimizers"), "FusedAdam")
            yield Check("apex", "ok" if fused else "warn", f"{about}" + ("" if fused else "; it has no FusedAdam"))
        except Exception as error:  # a build for another torch raises anything from ImportError to RuntimeError
            yield Check("apex", "warn", f"{about} cannot be used: {type(error).__name__}: {error}; rebuild it")


PROBES: dict[str, Callable[[], Iterator[Check]]] = {
    "python": _python,
    "machine": _machine,
    "disk": _disk,
    "files": _files,
    "slurm": _slurm,
    "compiler": _compiler,
    "torch": _torch,
    "kernels": _kernels,
    "deepspeed": _deepspeed,
    "accelerate": _accelerate,
    "dali": _dali,
    "apex": _apex,
}
APART = ("torch", "kernels", "deepspeed", "accelerate", "dali", "apex")
HERE = tuple(name for name in PROBES if name not in APART)


if __name__ == "__main__":
    answer = os.dup(1)
    os.dup2(2, 1)  # what imports print, C libraries included, goes to standard error: the answer stands alone
    rows = [json.dumps(asdict(check)) for check in run_probe(sys.argv[1])]
    os.write(answer, "\n".join(rows).encode())
