"""Compiles the kernel library: one translation unit for each number type and kernel size, in parallel, then a link."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from laconvnet.files import publish_text, publishing_folder, remove_leftovers
from laconvnet.kernels.cuda import cache
from laconvnet.kernels.cuda.cache import BuildError, Built
from laconvnet.kernels.cuda.toolchain import OLDEST, Nvcc, find_nvcc

NUMBER_TYPES = {"f32": "float", "f16": "laconv::half", "bf16": "laconv::bfloat16", "f64": "double"}
# Sizes with code of their own, by the name of the entry points; `any` (0) takes every odd size.
KERNEL_SIZES = {"any": 0, "k3": 3, "k5": 5, "k7": 7}
FLAGS = ("-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-cudart=static", "-Xptxas=-v")
# Less than half the size; compilers before 12.8 know only the second.
COMPRESS, COMPRESS_BEFORE = "--compress-mode=size", "-Xfatbin=-compress-all"
COMPILE_SECONDS = 600


@dataclass(frozen=True)
class Unit:
    """A translation unit: a source file and its macros."""

    name: str
    source: str
    macros: tuple[str, ...] = ()


def units() -> list[Unit]:
    """All units, the longest first."""
    result = []
    for size, number in reversed(KERNEL_SIZES.items()):
        for name, spelled in NUMBER_TYPES.items():
            if name == "f64" and size != "any":
                continue  # double is for checks, which need no speed
            macros = {"TYPE": spelled, "TYPE_NAME": name, "KERNEL": number, "KERNEL_NAME": size}
            defines = tuple(f"-DLACONV_{macro}={value}" for macro, value in macros.items())
            result.append(Unit(f"{name}_{size}", "dynamic_conv.cu", defines))
    for name in ("f16", "bf16"):
        defines = tuple(
            f"-DLACONV_{macro}={value}" for macro, value in (("TYPE", NUMBER_TYPES[name]), ("TYPE_NAME", name))
        )
        result.append(Unit(f"{name}_fused_k7_backward", "fused/k7_backward.cu", defines))
    return [*result, Unit("involution", "involution.cu"), Unit("dropout", "dropout.cu")]


def targets(architectures: Sequence[str]) -> list[str]:
    """The options for machine code of each architecture, and PTX for every later device."""
    options = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures if name != OLDEST]
    codes = f"[sm_{OLDEST},compute_{OLDEST}]" if OLDEST in architectures else f"compute_{OLDEST}"
    return [*options, f"-gencode=arch=compute_{OLDEST},code={codes}"]


def build(
    architectures: Sequence[str], nvcc: Nvcc | None = None, sources: Path = cache.SOURCES, retry: bool = False
) -> Built:
    """The library for these architectures (such as 80, 90a, 100), from the cache or built into it.

    Safe in several processes at once: one builds, the others wait for it. A failed build is remembered and not tried
    again but with `retry`. Raises BuildError.
    """
    nvcc = nvcc or find_nvcc()
    if nvcc is None:
        raise BuildError("no nvcc under CUDA_HOME, on PATH, of the package nvidia-cuda-nvcc or under /usr/local/cuda")
    architectures = sorted(set(architectures))
    source = cache.source_hash(sources)
    name = cache.key(architectures, source, nvcc.version)
    folder, failed = cache.cache_folder() / name, cache.failure_file(name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with cache.locked(name):
            found = cache.read(folder)
            if found is not None:
                return found
            if failed.exists() and not retry:
                raise BuildError(f"an earlier build failed: {failed}; `laconvnet kernels build` tries again")
            remove_leftovers(folder.parent, name)
            return _build(Built(folder, tuple(architectures), source, nvcc.version), nvcc, sources, failed)
    except OSError as error:
        raise BuildError(f"{folder}: {error}") from error


def _build(built: Built, nvcc: Nvcc, sources: Path, failed: Path) -> Built:
    folder, architectures = built.folder, built.architectures
    shutil.rmtree(folder, ignore_errors=True)  # one that nobody can read
    # Launchers hide what their ranks print; this one line is for people who start a process and see it pause.
    print(f"laconvnet: compiling CUDA kernels for sm_{', sm_'.join(architectures)} into {folder}", file=sys.stderr)
    try:
        with publishing_folder(folder) as staging:
            objects, words = compile_units(staging, architectures, nvcc, sources)
            library = staging / cache.LIBRARY
            words += _run(
                [nvcc.path, "-shared", "-cudart=static", "-Xlinker=-s", *nvcc.link_options, "-o", library, *objects]
            )
            for path in objects:
                path.unlink()
            (staging / cache.LOG).write_text(words)
            cache.write_manifest(staging, built)
    except CompilerError as error:
        publish_text(failed, error.words)
        raise BuildError(f"{error}; all its words: {failed}") from error
    failed.unlink(missing_ok=True)
    return built


class CompilerError(RuntimeError):
    """The compiler failed: its first line that tells of an error, and all its `words`."""

    def __init__(self, words: str) -> None:
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()] or lines[-1:]
        super().__init__(telling[0] if telling else "the compiler failed without a word")
        self.words = words


def compile_units(
    folder: Path, architectures: Sequence[str], nvcc: Nvcc, sources: Path = cache.SOURCES
) -> tuple[list[Path], str]:
    """Compiles every unit into `folder`; returns the object files and the compiler's output.

    Raises CompilerError with the words of the first unit that fails.
    """
    made = [folder / f"{unit.name}.o" for unit in units()]
    compress = COMPRESS if nvcc.release >= (12, 8) else COMPRESS_BEFORE
    commands = [
        [nvcc.path, *FLAGS, compress, *targets(architectures), *unit.macros, "-c", sources / unit.source, "-o", path]
        for unit, path in zip(units(), made, strict=True)
    ]
    pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    try:
        words = list(pool.map(_run, commands))
    finally:
        pool.shutdown(cancel_futures=True)
    return made, "".join(words)


def _run(command: Sequence[str | Path]) -> str:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CompilerError(f"error: no end after {COMPILE_SECONDS} s: {' '.join(map(str, command))}") from error
    if done.returncode:
        raise CompilerError(f"{' '.join(map(str, command))}\n{done.stdout}\nerror: exit code {done.returncode}\n")
    return done.stdout
