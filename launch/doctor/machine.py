"""Python, cores, memory and limits of this machine, a container's limits among them."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from laconvnet.launch.doctor.check import GIB, Check, PlannedRun
from laconvnet.launch.graph.stages import cores

LOW_DISK_GIB, LOW_SHM_GIB, LOW_FILES = 10.0, 1.0, 1024
CGROUPS = Path("/sys/fs/cgroup")
SHARED = Path("/dev/shm")


def python(planned_run: PlannedRun) -> Iterator[Check]:
    good = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} at {sys.executable}"
    yield Check("python", "ok" if good else "error", found, "" if good else "3.11 or newer is needed")


def processors(planned_run: PlannedRun) -> Iterator[Check]:
    """Cores that the scheduler lets this process use, against what its control group grants of their time."""
    usable, granted = cores(), cpu_quota()
    found = f"{usable} cores"
    if granted is not None and granted < usable:
        meaning = f"threads default to {usable}; more than {granted:g} wait for each other: set OMP_NUM_THREADS"
        yield Check("cores", "warning", f"{found}, but time of {granted:g} of them is granted (cgroup)", meaning)
    elif usable < planned_run.local:
        meaning = "ranks of one machine want a core each at the least"
        yield Check("cores", "warning", f"{found} for {planned_run.local} processes on a node", meaning)
    else:
        yield Check("cores", "ok", found)


def memory(planned_run: PlannedRun) -> Iterator[Check]:
    import psutil

    state = psutil.virtual_memory()
    found = f"{state.total / GIB:.1f} GiB, {state.available / GIB:.1f} GiB of it available"
    granted = memory_limit()
    if granted is not None and granted < state.total:
        found += f"; {granted / GIB:.1f} GiB granted (cgroup)"
        yield Check("memory", "warning", found, "a process that takes more than is granted is killed, without a word")
    else:
        yield Check("memory", "ok", found)


def shared_memory(planned_run: PlannedRun) -> Iterator[Check]:
    if not SHARED.is_dir():
        yield Check("shared memory", "warning", f"no {SHARED} here", "NCCL between GPUs of one machine wants it")
        return
    size = shutil.disk_usage(SHARED).total / GIB
    small = size < LOW_SHM_GIB
    meaning = "NCCL between GPUs of one machine wants 1 GiB (docker: --shm-size=1g)" if small else ""
    yield Check("shared memory", "warning" if small else "ok", f"{size:.2f} GiB at {SHARED}", meaning)


def open_files(planned_run: PlannedRun) -> Iterator[Check]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    most = "no limit" if unlimited else f"{soft:,} a process"
    hardest = "without limit" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    low = not unlimited and soft < LOW_FILES
    meaning = f"`ulimit -n` may raise it, up to {hardest}" if low else "half of them hold shards open"
    yield Check("open files", "warning" if low else "ok", most, meaning)


def temporary(planned_run: PlannedRun) -> Iterator[Check]:
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free / GIB
    low = free < 1
    meaning = "compilers and submitit write there; TMPDIR names another place" if low else ""
    yield Check("disk temporary", "warning" if low else "ok", f"{free:.1f} GiB free at {place}", meaning)


def compiler(planned_run: PlannedRun) -> Iterator[Check]:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        meaning = "nothing can be compiled when a run starts: LaConv on a CPU is then plain PyTorch; install g++"
        yield Check("c++ compiler", "not there", f"none of {', '.join(names)}", meaning)
        return
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    first = (done.stdout or done.stderr).splitlines() or [f"exit code {done.returncode}"]
    works = done.returncode == 0
    meaning = "" if works else "it does not run; the environment variable CXX names another one"
    yield Check("c++ compiler", "ok" if works else "warning", f"{path}: {first[0]}", meaning)


def memory_limit() -> int | None:
    """Bytes that the control groups of this process grant it, None where they set no bound."""
    texts = [*_control("memory", "memory.max"), *_control("memory", "memory.limit_in_bytes")]
    # The first version writes a number beyond any memory for "none".
    found = [int(text) for text in texts if text.isdigit() and int(text) < 1 << 60]
    return min(found, default=None)


def cpu_quota() -> float | None:
    """Processors whose time the control groups of this process grant it, None where they set no bound."""
    found = []
    for text in _control("cpu", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            found.append(int(quota) / int(period))
    pairs = zip(_control("cpu", "cpu.cfs_quota_us"), _control("cpu", "cpu.cfs_period_us"), strict=False)
    found += [int(quota) / int(period) for quota, period in pairs if quota.isdigit() and period.isdigit()]
    return min(found, default=None)


def _control(controller: str, file: str) -> list[str]:
    """What this file says in the control group of this process and in all above it, in either version's layout."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    texts = []
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = CGROUPS / controller if names else CGROUPS
        group = root / path.lstrip("/")
        # In a container the path may be the host's, of which only the root is seen.
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (folder / file).is_file():
                texts.append((folder / file).read_text().strip())
    return texts
