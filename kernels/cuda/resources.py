"""The resources of each kernel by the compiler's output: registers, spills, shared memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

_ENTRY = re.compile(r"Compiling entry function '(?P<name>[^']+)' for 'sm_(?P<architecture>\w+)'")
_MEMORY = re.compile(r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes")
_USED = re.compile(r"Used (?P<registers>\d+) registers")
# c++filt knows the numbers of enumerators of gather.cuh and norm/backward.cuh, not their names.
_ENUMERATORS = {
    **{"(Filters)0": "ONE", "(Filters)1": "EACH", "(Direction)0": "FORWARD", "(Direction)1": "GRAD_X"},
    **{"(Relu)0": "NONE", "(Relu)1": "AGAIN", "(Relu)2": "BY_RESULT"},
}
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Resources:
    """A kernel in the machine code of one architecture; memory in bytes a thread, static shared memory a block."""

    kernel: str
    architecture: str
    registers: int
    stack: int
    spills: int
    shared: int


def parse(words: str) -> list[Resources]:
    """Every kernel of the output of `ptxas -v`; the same kernel of several units counts once."""
    found: dict[tuple[str, str], Resources] = {}
    entry = memory = None
    for line in words.splitlines():
        entry = _ENTRY.search(line) or entry
        memory = _MEMORY.search(line) or memory
        used = _USED.search(line)
        if used and entry and memory:
            shared = _SHARED.search(line)
            one = Resources(
                entry["name"],
                entry["architecture"],
                int(used["registers"]),
                int(memory["stack"]),
                int(memory["stores"]) + int(memory["loads"]),
                int(shared[1]) if shared else 0,
            )
            found[one.kernel, one.architecture] = one
            entry = memory = None
    return sorted(found.values(), key=lambda one: (one.kernel, one.architecture))


def readable(names: list[str]) -> list[str]:
    """Names as the source has them, where the machine has c++filt; else as the linker has them."""
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return names
    done = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, timeout=60, check=False)
    lines = [re.sub(r"^void laconv::|\(laconv::\w+\)$|laconv::", "", line) for line in done.stdout.splitlines()]
    for spelled, value in _ENUMERATORS.items():
        lines = [line.replace(spelled, value) for line in lines]
    return lines if done.returncode == 0 and len(lines) == len(names) else names
