"""Compiles the kernel library: one translation unit for each number type and kernel size, in parallel, then a link."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.kernels import libraries
from laconvnet.kernels.compilers import BuildError, CompilerError, run
from laconvnet.kernels.cuda import cache
from laconvnet.kernels.cuda.cache import Built
from laconvnet.kernels.cuda.toolchain import USUAL, Nvcc, codes, find_nvcc
from laconvnet.kernels.folders import say
from laconvnet.terminal import complain

NUMBER_TYPES = {"f32": "float", "f16": "laconv::half", "bf16": "laconv::bfloat16", "f64": "double"}
# Sizes with code of their own, by the name of the entry points; `any` (0) takes every odd size.
KERNEL_SIZES = {"any": 0, "k3": 3, "k5": 5, "k7": 7}
# Kernels that make the filters themselves, for number types that tensor cores multiply.
FUSED_TYPES, FUSED = ("f16", "bf16"), ("k3", "k7_forward", "k7_backward")
FLAGS = ("-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-cudart=static", "-Xptxas=-v")
# Less than half the size; compilers before 12.8 know only the second.
COMPRESS, COMPRESS_BEFORE = "--compress-mode=size", "-Xfatbin=-compress-all"
COMPILE_SECONDS = 600
# nvcc fatal   : Unsupported gpu architecture 'compute_100'; Value 'sm_90a' is not defined for option 'gpu-code'
_UNKNOWN = re.compile(r"(?:Unsupported gpu architecture|Value) '((?:compute|sm)_\w+)'")


@dataclass(frozen=True)
class Unit:
    """A translation unit: a name of its own, a source file by its path below `cache.SOURCES`, and its macros."""

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
    for name in FUSED_TYPES:
        macros = {"TYPE": NUMBER_TYPES[name], "TYPE_NAME": name}
        defines = tuple(f"-DLACONV_{macro}={value}" for macro, value in macros.items())
        result += [Unit(f"fused_{name}_{stem}", f"fused/{stem}.cu", defines) for stem in FUSED]
    for name in ("f32", "f16", "bf16"):
        defines = (f"-DLACONV_TYPE={NUMBER_TYPES[name]}", f"-DLACONV_TYPE_NAME={name}")
        result.append(Unit(f"norm_{name}", "norm/norm.cu", defines))
    result.append(Unit("norm_combine", "norm/combine.cu"))
    for name in FUSED_TYPES:
        defines = (f"-DLACONV_TYPE={NUMBER_TYPES[name]}", f"-DLACONV_TYPE_NAME={name}")
        result += [Unit(f"{stem}_{name}", f"{stem}/{stem}.cu", defines) for stem in ("mlp", "stem")]
    return [*result, *(Unit(name, f"{name}.cu") for name in ("attention", "involution", "dropout"))]


def targets(architectures: Sequence[str], known: Set[str] | None = None) -> list[str]:
    """nvcc's options for what `toolchain.codes` puts into a library for these architectures."""
    by_ptx: dict[str, list[str]] = {}
    for code in codes(architectures, known):
        by_ptx.setdefault(f"compute_{code.partition('_')[2]}", []).append(code)
    options = {ptx: made[0] if len(made) == 1 else f"[{','.join(made)}]" for ptx, made in by_ptx.items()}
    return [f"-gencode=arch={ptx},code={made}" for ptx, made in options.items()]


def build(
    architectures: Sequence[str], nvcc: Nvcc | None = None, sources: Path = cache.SOURCES, retry: bool = False
) -> Built:
    """The library for these architectures (such as 80, 90a, 100), from the cache or built into it.

    Safe in several processes at once. A compiler that refuses the sources is not asked again but with `retry`. Raises
    BuildError.
    """
    nvcc = nvcc or find_nvcc()
    if nvcc is None:
        raise BuildError("no nvcc under CUDA_HOME, on PATH, of the package nvidia-cuda-nvcc or under /usr/local/cuda")
    architectures = sorted(set(architectures))
    source = cache.source_hash(sources)
    name = cache.key(architectures, source, nvcc.version)

    def make(folder: Path) -> dict[str, Any]:
        # Launchers hide what their ranks print; this one line is for people who start a process and see it pause.
        chips = f"sm_{', sm_'.join(architectures)}"
        complain(f"laconvnet: compiling CUDA kernels for {chips} into {folder.with_name(name)}")
        made = _build(folder, architectures, nvcc, sources)
        return {"architectures": architectures, "source": source, "nvcc": nvcc.version, "codes": made}

    found = cache.of(libraries.obtain(name, cache.LIBRARY, make, retry))
    if found is None:
        raise BuildError(f"{name}: {cache.MANIFEST} is not that of a library of these kernels; remove that folder")
    return found


def _build(folder: Path, architectures: Sequence[str], nvcc: Nvcc, sources: Path) -> list[str]:
    """Writes library and compiler's words into `folder`; the codes that are in it."""
    objects, words, known = _for_known(folder, architectures, nvcc, sources)
    library = folder / cache.LIBRARY
    options = ("-shared", "-cudart=static", "-Xlinker=-s", *nvcc.link_options)
    words += run([nvcc.path, *options, "-o", library, *objects], COMPILE_SECONDS)
    for path in objects:
        path.unlink()
    (folder / cache.LOG).write_text(words)
    return codes(architectures, known)


def _for_known(
    folder: Path, architectures: Sequence[str], nvcc: Nvcc, sources: Path
) -> tuple[list[Path], str, Set[str] | None]:
    """Objects, words and what the compiler knows (None: all), for as much as it turns out to know."""
    known: Set[str] | None = None
    refused: set[str] = set()
    while True:
        try:
            return *compile_units(folder, architectures, nvcc, sources, known), known
        except CompilerError as error:
            unknown = _UNKNOWN.search(error.words)
            if not unknown or unknown[1] in refused:
                raise
            refused.add(unknown[1])
        known = (nvcc.architectures() or set(USUAL)) - {name.partition("_")[2] for name in refused}
        try:
            made = ", ".join(codes(architectures, known))
        except ValueError as error:
            raise BuildError(f"nvcc {nvcc.version} makes no code that runs on {error}; install another") from error
        say(f"nvcc {nvcc.version} does not know {', '.join(sorted(refused))}: compiled for {made} (compute: PTX)")


def compile_units(
    folder: Path,
    architectures: Sequence[str],
    nvcc: Nvcc,
    sources: Path = cache.SOURCES,
    known: Set[str] | None = None,
) -> tuple[list[Path], str]:
    """Compiles every unit into `folder`; returns the object files and the compiler's output.

    `known`: the architectures that the compiler knows, None for all. Raises CompilerError with the words of the first
    unit that fails.
    """
    made = [folder / f"{unit.name}.o" for unit in units()]
    compress = COMPRESS if nvcc.release >= (12, 8) else COMPRESS_BEFORE
    options = [*FLAGS, compress, *targets(architectures, known)]
    commands = [
        [nvcc.path, *options, *unit.macros, "-c", sources / unit.source, "-o", path]
        for unit, path in zip(units(), made, strict=True)
    ]
    pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    try:
        words = list(pool.map(lambda command: run(command, COMPILE_SECONDS), commands))
    finally:
        pool.shutdown(cancel_futures=True)
    return made, "".join(words)
