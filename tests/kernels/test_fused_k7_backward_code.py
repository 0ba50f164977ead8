"""The machine code of the fused backward kernels of k = 7: what a step of a warp costs, on every chip."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import pytest

from tests.kernels.machine_code import HALVES, Function, compile_unit, read

REGISTERS = 65536


@dataclass(frozen=True)
class Budget:
    """Of a step: instructions without and with dropout, on sm_90a. Threads and blocks share a processor's registers.

    Exact: products of matrices, loads of 16 bytes of the condition and of shared memory, loads of matrices, copies into
    shared memory.
    """

    instructions: tuple[int, int]
    products: int
    condition: int
    quads: int
    matrices: int
    copies: int
    threads: int
    blocks: int
    barriers: int = 0
    rounds: int = 1  # of an inner loop over the condition


# By kernel and its numbers: channels a group, condition, warps a block, as the template has them.
BUDGETS = {
    ("grad_x", "64"): Budget((475, 720), 7 * (2 * 4 + 3), 8, 7 * 3, 0, 0, 128, 2),
    ("grad_x", "128"): Budget((590, 860), 7 * (2 * 8 + 3), 16, 7 * 5, 0, 0, 128, 2),
    ("grad_x_pairs", "256"): Budget((680, 800), 7 * (16 + 4), 16, 7 * 9 + 3, 0, 0, 128, 2, 1, rounds=2),
    ("grad_x_pairs", "512"): Budget((980, 1100), 7 * (32 + 4), 32, 7 * 17 + 3, 0, 0, 64, 3, 1, rounds=4),
    ("grad_cond", "16, 64, 4"): Budget((450, 720), 32 + 14 * 4, 0, 28, 16, 3, 128, 2, 1),
    ("grad_cond", "16, 64, 8"): Budget((480, 740), 32 + 28 * 2, 0, 56, 16, 3, 256, 1, 1),
    ("grad_cond", "16, 128, 4"): Budget((520, 800), 32 + 14 * 8, 0, 28, 16, 3, 128, 2, 1),
    ("grad_cond", "16, 128, 8"): Budget((520, 800), 32 + 28 * 4, 0, 56, 16, 3, 256, 1, 1),
    ("grad_cond", "32, 256, 8"): Budget((600, 860), 64 + 28 * 4, 0, 56, 24, 6, 256, 1, 1),
    ("grad_weight", "16, 64"): Budget((290, 400), 16 + 7 + 28, 0, 3, 12, 4, 128, 2, 1),
    ("grad_weight", "16, 128"): Budget((360, 460), 16 + 7 + 56, 0, 3, 16, 6, 128, 2, 1),
    ("grad_weight", "32, 256"): Budget((380, 490), 32 + 7 + 56, 0, 3, 24, 8, 128, 2, 1),
}
CASES = [(kernel, numbers, drop) for kernel, numbers in BUDGETS for drop in (False, True)]
# sm_80 computes places again that others keep; sm_100 takes less than sm_90a.
SHARE = {"80": 1.1, "90a": 1.0, "100": 1.0}


@pytest.fixture(scope="module", params=SHARE)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=HALVES)
def kernels(request: pytest.FixtureRequest, architecture: str) -> dict[tuple[str, str, bool], Function]:
    """By kernel, numbers and dropout."""
    found = {}
    unit = f"fused_{request.param}_k7_backward"
    for function in read(compile_unit(unit, architecture)):
        kernel = re.match(r"k7_backward::k7_(\w+)<\w+, (.*), (true|false)>", function.name)
        if kernel:
            found[kernel[1], kernel[2], kernel[3] == "true"] = function
        else:
            assert "add_parts" in function.name
    return found


def test_nothing_is_missing(kernels: dict[tuple[str, str, bool], Function]) -> None:
    assert sorted(kernels) == sorted(CASES)


@pytest.mark.parametrize(("kernel", "numbers", "drop"), CASES)
def test_registers(kernels: dict[tuple[str, str, bool], Function], kernel: str, numbers: str, drop: bool) -> None:
    function, budget = kernels[kernel, numbers, drop], BUDGETS[kernel, numbers]
    assert (function.spills, function.stack) == (0, 0)
    assert function.registers * budget.threads * budget.blocks <= REGISTERS


@pytest.mark.parametrize(("kernel", "numbers", "drop"), CASES)
def test_step(
    kernels: dict[tuple[str, str, bool], Function], architecture: str, kernel: str, numbers: str, drop: bool
) -> None:
    function, budget = kernels[kernel, numbers, drop], BUDGETS[kernel, numbers]
    total, counts = step(function, budget)
    assert total <= budget.instructions[drop] * SHARE[architecture]
    loads = {"HMMA": budget.products, "LDS.128": budget.quads, "LDSM": budget.matrices, "LDGSTS": budget.copies}
    assert {name: counts[name] for name in loads} == loads
    assert counts["LDG.128"] == budget.condition
    assert counts["BAR"] == budget.barriers
    assert counts["MOV"] <= 0.1 * total
    # Nothing else is loaded than the gradient: 8 bytes a lane of 4 patches, or 4 bytes of 16 pixels x 16 channels each.
    others = sum(counts[name] for name in counts if name.startswith("LDG.")) - budget.condition
    assert others == {"x": 4, "c": 8, "w": 4}[kernel.removeprefix("grad_")[0]] * (2 if numbers.startswith("32") else 1)


def step(function: Function, budget: Budget) -> tuple[int, Counter[str]]:
    """Instructions that a step takes, and how many of each kind."""
    outer = function.loop_of("HMMA")
    total, counts = outer.total, Counter(outer.counts)
    if budget.rounds > 1:
        inner = min((loop for loop in function.loops if loop.counts["HMMA"]), key=lambda loop: loop.total)
        total += (budget.rounds - 1) * inner.total
        for name, count in inner.counts.items():
            counts[name] += (budget.rounds - 1) * count
    return total, counts
