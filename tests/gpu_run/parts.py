"""The parts of the run on a GPU, the most valuable first, and those of the dry run on a processor."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.gpu_run.runner import Command, Part

MACHINE, PROFILE, NCU, TESTS = "gpu-machine.txt", "gpu-profile.txt", "gpu-ncu.csv", "gpu-tests.txt"
CUDA = Path("/usr/local/cuda/bin")  # where its tools lie, if they are not on PATH
_SLOWER = 4  # a processor that others use as well, than a machine of one's own
FACTS = (
    *("name", "driver_version", "memory.total", "memory.used", "clocks.sm", "clocks.max.sm", "clocks.mem"),
    *("power.limit", "temperature.gpu", "ecc.mode.current", "pcie.link.gen.current"),
)


def on_gpu(folder: Path) -> list[Part]:
    """Their first six take less than four minutes, so that a run that is cut there has told what matters most."""
    nvidia_smi, ncu, sanitizer = (_tool(name) for name in ("nvidia-smi", "ncu", "compute-sanitizer"))
    operator = ("kernel", "--device", "cuda", "--quick")
    layers = (*operator, "--preset", "s", "--size", "416", "--dtype", "bf16")
    ours = ("--without", "unfold", "taps")
    return [
        Part("facts", 5, 1, (Command((nvidia_smi or "", f"--query-gpu={','.join(FACTS)}", "--format=csv"), MACHINE),))
        if nvidia_smi
        else _lacking("facts", "nvidia-smi"),
        Part("build", 70, 10, (_python("laconvnet", "kernels", "build", "--verbose", "--json", file=MACHINE),)),
        Part("smoke", 25, 8, (_module("smoke", "cuda", file=MACHINE),)),
        Part(
            "operator",
            55,
            15,
            (
                _measured(folder, *layers, *ours),
                _measured(folder, *layers, "--without", "taps", "involution", "--stage", "3"),
            ),
        ),
        Part("step", 45, 15, (_step(folder, "--kernels", str(folder / PROFILE)),)),
        Part("ncu", 35, 12, (_module("counters", ncu, file=NCU),)) if ncu else _lacking("ncu", "ncu"),
        Part("tests", 150, 20, (_tests(),)),
        Part("engine", 90, 25, (_trained(folder, "cuda", "engine", "--rounds", "3"),)),
        *(
            Part(check, 40, 15, (_sanitizer(sanitizer, check),)) if sanitizer else _lacking(check, "compute-sanitizer")
            for check in ("memcheck", "racecheck")
        ),
        Part(
            "more",
            120,
            20,
            (
                _trained(folder, "cuda", "speed", "--rounds", "2"),
                _measured(folder, *layers, *ours, "--rounds", "9"),
                _measured(folder, *operator, "--preset", "b", "--dtype", "bf16", *ours),
                _measured(folder, *operator, "--preset", "s", "--dtype", "fp16", "fp32", *ours),
            ),
        ),
        Part("graph", 40, 15, (_step(folder, "--graph"),)),
    ]


def dry(folder: Path) -> list[Part]:
    """The same parts in the same order on a processor, of tiny shapes; those that only a GPU can run are left out."""
    tiny = ("kernel", "--device", "cpu", "--preset", "tiny", "--size", "32", "--batch", "1", "--quick")
    runs = {
        "smoke": (_module("smoke", "cpu", file=MACHINE),),
        "operator": (_measured(folder, *tiny, "--rounds", "1", "--without", "taps"),),
        "step": (_step(folder, "--kernels", str(folder / PROFILE), device="cpu"),),
        "tests": (_tests(),),
        "engine": (_trained(folder, "cpu", "engine", "--rounds", "1"),),
        "more": (_trained(folder, "cpu", "speed", "--rounds", "1"),),
    }
    return [
        Part(part.name, _SLOWER * part.limit, part.least, runs[part.name])
        if part.name in runs
        else Part(part.name, part.limit, part.least, (), "dry run: only a GPU can do it")
        for part in on_gpu(folder)
    ]


def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=str(CUDA))


def _lacking(name: str, tool: str) -> Part:
    return Part(name, 0, 0, (), f"{tool} is not installed")


def _python(*words: str, file: str) -> Command:
    return Command((sys.executable, "-m", *words), file)


def _module(name: str, *words: str, file: str = TESTS) -> Command:
    return _python(f"tests.gpu_run.{name}", *words, file=file)


def _measured(folder: Path, *words: str) -> Command:
    """Rows are kept in the folder, each list with its date as it is made; printed as JSON, for a table needs rich."""
    given = ("--json", "--minutes", "{minutes}", "--record", str(folder))
    return _python("laconvnet", "bench", *words, *given, file=os.devnull)


def _step(folder: Path, *words: str, device: str = "cuda") -> Command:
    return _module("step", "--device", device, "--record", str(folder), *words)


def _trained(folder: Path, device: str, part: str, *words: str) -> Command:
    return _measured(folder, "train", "--device", device, "--part", part, *words)


def _tests() -> Command:
    """First what has never run anywhere: DALI's decoder on a GPU, and apex. The sanitizer is a part of its own."""
    first = ("tests/gpu/test_decoding_gpu.py", "tests/gpu/test_apex_gpu.py", "tests/gpu/test_fused_norm_gpu.py")
    options = ("-q", "-rs", "--durations=10", "-p", "no:cacheprovider", "-m", "gpu")
    left_out = "tests/gpu/test_kernels.py::test_no_access_out_of_bounds_and_no_race"
    return _python("pytest", *options, *first, "tests/gpu", "--deselect", left_out, file=TESTS)


def _sanitizer(tool: str, check: str) -> Command:
    """Memory straight from CUDA: in PyTorch's pool a neighbour's memory would answer for what lies out of bounds."""
    options = ("--tool", check, "--error-exitcode", "9", "--target-processes", "all")
    return Command(("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", tool, *options, *_module("small", "cuda").words), TESTS)
