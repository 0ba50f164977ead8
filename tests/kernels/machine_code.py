"""Reads the machine code (SASS) that CUDA's compiler makes: what a loop of a kernel costs, without a GPU.

cubin = compile_unit("bf16_k7", "90a")                    a translation unit of the library
cubin = compile_text("__global__ void ...", "90a", folder)
for function in read(cubin): function.registers, function.loop_of("HMMA").counts["LDG.128"]
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from laconvnet.kernels.cuda import cache, compiler, resources
from laconvnet.kernels.cuda.toolchain import ARCHITECTURES
from tests.kernels import compilers
from tests.kernels.compiled import KEPT, compiled

# What a module's machine code is read of: each type of halves, and each with every chip.
HALVES = ["bf16", pytest.param("f16", marks=pytest.mark.variant)]
HALVES_AND_CHIPS = [
    *(f"bf16 {chip}" for chip in ARCHITECTURES),
    *(pytest.param(f"f16 {chip}", marks=pytest.mark.variant) for chip in ARCHITECTURES),
]

_FUNCTION = re.compile(r"\.text\.(\S+):")
_LABEL = re.compile(r"\s*(\.L_\w+):")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")
_PREDICATE = re.compile(r"^@!?U?P\w+\s+")
# Copies of registers in any spelling; the multiplier and the clock's port serve as further roads for them.
_COPIES = ("MOV", "IMAD.MOV", "CS2R")
_SIZED = ("LDG", "STG", "LDS", "STS", "LDL", "STL")


@dataclass(frozen=True)
class Loop:
    """The body of a loop, from the place that a backward branch leads to, to that branch; NOPs are left out."""

    instructions: tuple[str, ...]  # operation with modifiers, such as LDG.E.128.CONSTANT

    @functools.cached_property
    def counts(self) -> Counter[str]:
        """How often each operation stands there, by the names of `counted`; 0 for all others."""
        return counted(self.instructions)

    @property
    def total(self) -> int:
        return len(self.instructions)


@dataclass(frozen=True)
class Function:
    """A kernel: registers a thread; stack and spills in bytes a thread; static shared memory in bytes a block."""

    name: str  # as the source has it
    symbol: str
    registers: int
    stack: int
    spills: int
    shared: int
    whole: Loop  # everything, as if it were one body
    loops: tuple[Loop, ...]  # in the order of their ends

    def loop_of(self, operation: str) -> Loop:
        """The innermost loop that holds the most of this operation.

        A loop unrolled over several steps is one body: the caller divides. Raises LookupError where no loop has any.
        """
        having = [loop for loop in self.loops if loop.counts[operation]]
        if not having:
            raise LookupError(f"{self.name}: no loop of {len(self.loops)} holds {operation}")
        return max(having, key=lambda loop: (loop.counts[operation], -loop.total))


def counted(instructions: Iterable[str]) -> Counter[str]:
    """Counts by operation: HMMA, FFMA, SHFL, PRMT, LDSM, MOVM, BAR, LDGSTS, IMAD, ...

    Loads and stores of memory are counted by their width in bits (LDG.128, STS.32, LDG.16, ...), all copies of
    registers as MOV, wide multiplications, which compute addresses, as IMAD.WIDE.
    """
    return Counter(_name(instruction) for instruction in instructions)


def _name(instruction: str) -> str:
    base, _, modifiers = instruction.partition(".")
    if any(instruction == copy or instruction.startswith(f"{copy}.") for copy in _COPIES):
        return "MOV"
    if base in _SIZED:
        return f"{base}.{_bits(modifiers.split('.'))}"
    return "IMAD.WIDE" if instruction.startswith("IMAD.WIDE") else base


def _bits(modifiers: Sequence[str]) -> int:
    """The width of a load or store: 32 bits where no modifier says another."""
    for modifier in modifiers:
        width = re.fullmatch(r"[US]?(8|16|64|128|256)", modifier)
        if width:
            return int(width[1])
    return 32


def compile_text(text: str, architecture: str, folder: Path) -> Path:
    """The machine code of a small source, which is written into this folder."""
    source = folder / "text.cu"
    source.write_text(text)
    return _compile(source, (), architecture, folder)


def compile_unit(name: str, architecture: str) -> Path:
    """The machine code of a translation unit of the library, such as bf16_k7 (`compiler.units`)."""
    (unit,) = [unit for unit in compiler.units() if unit.name == name]
    return _compile(cache.SOURCES / unit.source, unit.macros, architecture)


def _compile(source: Path, macros: Sequence[str], architecture: str, place: Path = KEPT) -> Path:
    flags = [flag for flag in compiler.FLAGS if not flag.startswith("-cudart")]
    command: list[str | Path] = [compilers.pinned_nvcc(), *flags, f"-arch=sm_{architecture}", *macros, "-cubin", source]
    return compiled(f"{source.stem}.cubin", command, place)


def read(cubin: Path) -> list[Function]:
    """All kernels of a file that `compile_text` or `compile_unit` made, in the order of their symbols."""
    used = {one.kernel: one for one in resources.parse(cubin.with_suffix(".txt").read_text())}
    code = {symbol: found for symbol, found in _disassembled(cubin).items() if symbol in used}
    assert code.keys() == used.keys(), f"{cubin}: ptxas tells of {sorted(used)}, nvdisasm of {sorted(code)}"
    symbols = sorted(code)
    names = resources.readable(symbols)
    return [
        Function(name, symbol, one.registers, one.stack, one.spills, one.shared, *code[symbol])
        for name, symbol, one in zip(names, symbols, map(used.__getitem__, symbols), strict=True)
    ]


def _disassembled(cubin: Path) -> dict[str, tuple[Loop, tuple[Loop, ...]]]:
    """By symbol: all instructions, and the loops among them."""
    command: list[str | Path] = [compilers.nvdisasm(), "-c", cubin]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stderr}"
    found: dict[str, tuple[list[str], dict[str, int]]] = {}
    lines: list[str] = []
    labels: dict[str, int] = {}
    for line in done.stdout.splitlines():
        if function := _FUNCTION.match(line):
            lines, labels = found.setdefault(function[1], ([], {}))
        elif label := _LABEL.match(line):
            labels[label[1]] = len(lines)
        elif instruction := _INSTRUCTION.match(line):
            lines.append(_PREDICATE.sub("", instruction[1]))
    return {symbol: (_body(lines), tuple(_loops(lines, labels))) for symbol, (lines, labels) in found.items()}


def _loops(lines: Sequence[str], labels: dict[str, int]) -> Iterable[Loop]:
    for number, line in enumerate(lines):
        target = re.search(r"\.L_\w+", line) if line.startswith("BRA") else None
        # A branch to itself, with which ptxas fills the end of a function, is no loop.
        if target and labels.get(target[0], number) < number:
            yield _body(lines[labels[target[0]] : number + 1])


def _body(lines: Sequence[str]) -> Loop:
    operations = (line.split()[0] for line in lines)
    return Loop(tuple(operation for operation in operations if operation != "NOP"))
