"""The LaConv kernels and the packages that a run is made of: what is there, and which part of each would be used."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from laconvnet.launch.doctor.check import Check, PlannedRun
from laconvnet.launch.doctor.torches import driver_cuda
from laconvnet.pipeline.runs.version import version_of


def kernels(planned_run: PlannedRun) -> Iterator[Check]:
    """Where the operator's package is, which implementation a run would take on the CPU and on each GPU, and why."""
    import torch

    import laconvnet.kernels
    from laconvnet.kernels import cuda

    yield Check("laconvnet.kernels", "ok", str(laconvnet.kernels.__file__))
    nvcc = cuda.find_nvcc()
    if nvcc:
        yield Check("nvcc", "ok", f"{nvcc.version} at {nvcc.path}")
    else:
        yield Check("nvcc", "not there", "not found", "CUDA kernels cannot be compiled here")
    yield _on_cpu()
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        yield _on_gpu(index)


_PLAIN = "plain PyTorch, several times slower"
_REQUIRED = "a run with engine.kernels: require stops here"


def _on_gpu(index: int) -> Check:
    import torch

    from laconvnet.kernels import cuda

    name, device = f"laconv cuda:{index}", torch.device("cuda", index)
    plan = cuda.plan(torch.cuda.get_device_capability(index))
    if not plan.fast:
        return Check(name, "warning", plan.words(), _REQUIRED)
    if plan.damaged:
        return Check(name, "warning", plan.words(), "it is built anew at first use")
    if plan.built is None:
        return Check(name, "ok", plan.words())
    found = cuda.outcome(device)  # loads what is built, and tries it
    if isinstance(found, str):
        return Check(name, "warning", f"{_PLAIN}: {found}", _REQUIRED)
    return Check(name, "ok", f"{plan.words()}; probe launch ok")


def _on_cpu() -> Check:
    from laconvnet.kernels import cpu
    from laconvnet.kernels.cpu import build

    try:
        stored = build.find()
        by = build.compiler() if stored is None else ""
    except build.BuildError as error:
        return Check("laconv cpu", "warning", _PLAIN, str(error))
    if stored is not None:
        found = cpu.outcome()
        if isinstance(found, str):
            return Check("laconv cpu", "warning", _PLAIN, found)
        made = stored.made_from.get("compiler")
        return Check("laconv cpu", "ok", f"C++ kernel, built by {made}, checksum ok: {stored.path}; probe ok")
    if failed := build.failure():
        return Check("laconv cpu", "warning", _PLAIN, failed)
    later = f"C++ kernel, compiled by {by} at first use"
    if damaged := build.damage():
        return Check("laconv cpu", "warning", f"{later}; {damaged}", "it is built anew at first use")
    return Check("laconv cpu", "ok", later)


def accelerate(planned_run: PlannedRun) -> Iterator[Check]:
    yield Check("accelerate", "ok", importlib.import_module("accelerate").__version__)
    found = version_of("transformers")
    meaning = "" if found else "accelerate's DeepSpeed plugin asks for its version and fails; install transformers"
    yield Check("transformers", "ok" if found else "error", found or "not installed", meaning)


def deepspeed(planned_run: PlannedRun) -> Iterator[Check]:
    """Its version, and its own compiled operators, of which only `optimizer.implementation: deepspeed` uses one."""
    found = importlib.import_module("deepspeed")
    yield Check("deepspeed", "ok", found.__version__)
    installed = importlib.import_module("deepspeed.git_version_info").installed_ops
    built = [name for name, there in installed.items() if there]
    if "fused_adam" in built:
        yield Check("deepspeed ops", "ok", f"built with it: {', '.join(built)}")
        return
    import torch

    from laconvnet.kernels.cuda import find_nvcc

    missing = [] if torch.cuda.is_available() else ["a GPU"]
    missing += [] if find_nvcc() else ["nvcc"]
    missing += [] if shutil.which("ninja") or importlib.util.find_spec("ninja") else ["ninja"]
    summary = f"built with it: {', '.join(built) or 'none'}; fused_adam " + (
        f"cannot be built without {', '.join(missing)}" if missing else "would be built at first use"
    )
    meaning = "only optimizer.implementation: deepspeed needs it; the default does not"
    yield Check("deepspeed ops", "not there" if missing else "ok", summary, meaning)


def dali(planned_run: PlannedRun) -> Iterator[Check]:
    found = importlib.import_module("nvidia.dali")
    importlib.import_module("nvidia.dali.fn")
    backend = "decodes on the GPU (mixed)" if driver_cuda() else "decodes on the CPU: no NVIDIA driver is there"
    yield Check("dali", "ok", f"{found.__version__}, {backend}")


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


def apex(planned_run: PlannedRun) -> Iterator[Check]:
    kind, about = apex_kind()
    if kind == "none":
        yield Check("apex", "not there", "not installed", "it is optional")
    elif kind == "unrelated":
        found = f"{about} is not NVIDIA's apex, only its name is the same"
        yield Check("apex", "warning", found, "it is not used; uninstall it")
    else:
        try:
            importlib.import_module("amp_C")
            fused = hasattr(importlib.import_module("apex.optimizers"), "FusedAdam")
        except Exception as error:  # a build for another torch raises anything from ImportError to RuntimeError
            yield Check("apex", "warning", f"{about} cannot be used: {type(error).__name__}: {error}", "build it again")
        else:
            found = about if fused else f"{about}; it has no FusedAdam"
            yield Check("apex", "ok" if fused else "warning", found, "" if fused else "torch's Adam is used")
