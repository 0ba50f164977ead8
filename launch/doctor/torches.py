"""torch, the driver it needs, collectives that really run, and the optimizer that a run would take."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from laconvnet.launch.doctor.check import Check, PlannedRun, State

DRIVER = Path("/proc/driver/nvidia/version")
# From this one on, a driver runs every program of its own major version of CUDA.
_MINOR_COMPATIBLE = 11


class Version(NamedTuple):
    """A version of CUDA."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def torch_and_driver(planned_run: PlannedRun) -> Iterator[Check]:
    """torch's version, and whether the driver is new enough for the CUDA that it was built for."""
    import torch

    built = torch.version.cuda
    yield Check("torch", "ok", f"{torch.__version__}, built for {'CUDA ' + built if built else 'CPUs alone'}")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    why = ""
    if built and not names and driver_cuda():
        try:
            torch.cuda.init()
        except RuntimeError as error:
            why = " ".join(str(error).split())
    yield judged(built, driver_cuda(), names, why)


def judged(built: str | None, driver: Version | None, names: list[str], why: str = "") -> Check:
    """The CUDA that torch was ``built`` for, against the newest that the driver runs, and the GPUs that torch finds."""
    newest = f"driver {driver_version()}, for CUDA up to {driver}"
    if driver is None:
        state: State = "error" if DRIVER.exists() else "not there"
        found = "NVIDIA's driver is loaded, but libcuda.so.1 cannot be" if DRIVER.exists() else "no NVIDIA driver"
        meaning = "start the container with --gpus or --nv" if DRIVER.exists() else "the CPU is used"
        return Check("cuda", state, found, meaning)
    if built is None:
        return Check("cuda", "warning", f"{newest}; this torch has no CUDA", "install torch built for CUDA to use GPUs")
    needed = Version(*map(int, built.split(".")[:2]))
    enough = driver.major >= needed.major if needed.major >= _MINOR_COMPATIBLE else driver >= needed
    if not enough:
        meaning = f"update the driver, or install torch built for CUDA {driver.major}"
        return Check("cuda", "error", f"{newest}; torch needs {needed}", meaning)
    if not names:
        meaning = "CUDA_VISIBLE_DEVICES may hide them, or the job has none"
        return Check("cuda", "error", f"{newest}; torch finds no GPU{': ' + why if why else ''}", meaning)
    return Check("cuda", "ok", f"{newest}; {len(names)} GPU: {', '.join(dict.fromkeys(names))}")


def driver_cuda() -> Version | None:
    """The newest CUDA that the driver runs, None where there is no driver."""
    number = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)):
            return None
    except (OSError, AttributeError):
        return None
    return Version(number.value // 1000, number.value % 1000 // 10)


def driver_version() -> str:
    """The driver's own version."""
    words = DRIVER.read_text().split("\n")[0].split() if DRIVER.exists() else []
    return next((word for word in words if word[0].isdigit() and "." in word), "of unknown version")


def collectives(planned_run: PlannedRun) -> Iterator[Check]:
    """An all-reduce of one process through the backend that a run would take: NCCL on GPUs, gloo elsewhere."""
    import torch
    from torch import distributed

    on_gpu = torch.cuda.is_available()
    backend = "nccl" if on_gpu else "gloo"
    if on_gpu and not distributed.is_nccl_available():
        yield Check("nccl", "error", "this torch has none", "several GPUs cannot train together; install another torch")
        return
    version = ".".join(map(str, torch.cuda.nccl.version())) if on_gpu else ""
    begun = time.perf_counter()
    try:
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
        total = torch.ones(1, device="cuda:0" if on_gpu else "cpu")
        distributed.all_reduce(total)
        good = total.item() == 1
        distributed.destroy_process_group()
    except RuntimeError as error:
        message = " ".join(str(error).split())
        meaning = "NCCL_DEBUG=INFO tells more" if on_gpu else "GLOO_SOCKET_IFNAME names the interface to use"
        yield Check(backend, "error", f"{version} {message}".strip(), meaning)
        return
    found = f"{version} an all-reduce of one process took {time.perf_counter() - begun:.2f} s".strip()
    yield Check(backend, "ok" if good else "error", found, "" if good else "it gave a wrong sum")
    if not on_gpu:
        why = "no GPU is there for it" if distributed.is_nccl_available() else "this torch has none, and no GPU"
        yield Check("nccl", "not there", why, "gloo joins processes on CPUs")


def optimizer(planned_run: PlannedRun) -> Iterator[Check]:
    """What `optimizer.implementation: auto` would be."""
    import torch

    from laconvnet.pipeline.training.apex import has_apex  # what decides it in a run
    from laconvnet.pipeline.training.optimizer import EXTENSION

    if not torch.cuda.is_available():
        yield Check("optimizer", "ok", "torch's Adam, fused", "no GPU is there for apex")
    elif has_apex(EXTENSION):
        yield Check("optimizer", "ok", "apex's FusedAdam", "a GPU and NVIDIA's apex are there")
    else:
        yield Check("optimizer", "ok", "torch's Adam, fused", "NVIDIA's apex is not there")
