"""The machine code of the fused forward kernels of k = 7: what a step of a warp costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from tests.kernels.machine_code import HALVES, Function, compile_unit, read

SPELLED = {"f16": "half", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Budget:
    """Of a step, 32 pixels x 16 channels or x 32: instructions without and with dropout. Threads and blocks share the
    registers of a processor.

    Exact: products of matrices, loads of the condition, loads of weight and bias (16 bytes a lane), of matrices of x.
    """

    instructions: tuple[int, int]
    products: int
    condition: int
    weight: int
    matrices: int
    threads: int
    blocks: int


# A product of 16 numbers for 2 rows of pixels and 7 kernel rows, and one for each patch, kernel row and 16 channels.
BUDGETS = {
    64: Budget((500, 710), 7 * 2 * 4 + 28, 8, 7 * 3, 16, 128, 2),
    128: Budget((610, 815), 7 * 2 * 8 + 28, 16, 7 * 5, 16, 128, 2),
    256: Budget((1060, 1290), 7 * 2 * 16 + 56, 32, 7 * 9, 32, 256, 1),
    512: Budget((1640, 1870), 7 * 2 * 32 + 56, 64, 7 * 17, 32, 128, 1),
}
CHUNK = 64  # of the long conditions, a round of their inner loop


@pytest.fixture(scope="module", params=["80", "90a", "100"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=HALVES)
def kernels(request: pytest.FixtureRequest, architecture: str) -> dict[tuple[int, bool], Function]:
    """By condition and dropout."""
    name = request.param
    found = {}
    for function in read(compile_unit(f"fused_{name}_k7_forward", architecture)):
        for condition in BUDGETS:
            for drop in (False, True):
                kernel = "wide_forward" if condition > 128 else "forward"
                if f"k7::{kernel}<{SPELLED[name]}, {condition}, {str(drop).lower()}>" in function.name:
                    found[condition, drop] = function
    assert len(found) == 2 * len(BUDGETS)
    return found


def step(function: Function, condition: int) -> tuple[int, Counter[str]]:
    """Instructions that a step takes, and how many of each kind."""
    outer = function.loop_of("HMMA")
    total, counts = outer.total, Counter(outer.counts)
    if condition > 128:
        inner = min((loop for loop in function.loops if loop.counts["HMMA"]), key=lambda loop: loop.total)
        assert inner.counts["HMMA"] == 7 * 2 * CHUNK // 16
        for _ in range(condition // CHUNK - 1):
            total += inner.total
            counts += inner.counts
    return total, counts


@pytest.mark.parametrize("drop", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize("condition", BUDGETS)
def test_step(kernels: dict[tuple[int, bool], Function], condition: int, drop: bool) -> None:
    function, budget = kernels[condition, drop], BUDGETS[condition]
    total, counts = step(function, condition)
    assert (function.spills, function.stack) == (0, 0)
    assert function.registers * budget.threads * budget.blocks <= 65536
    assert total <= budget.instructions[drop]
    wanted = {
        "HMMA": budget.products,
        "LDG.128": budget.condition,
        "LDS.128": budget.weight,
        "LDSM": budget.matrices,
        "SHFL": 2 * 28,
        "MOVM": budget.matrices // 2,
        "LDGSTS": 3 * budget.matrices // 16,
        "STG.32": budget.matrices // 2,
    }
    assert {name: counts[name] for name in wanted} == wanted
    assert sum(counts[name] for name in counts if name.startswith("LDG.")) == budget.condition
    assert counts["MOV"] <= 0.1 * total
    assert not counts["BAR"]
