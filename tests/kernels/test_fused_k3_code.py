"""The machine code of the fused kernels of k = 3: what a step of 16 pixels costs, on every chip."""

from __future__ import annotations

import re

import pytest

from tests.kernels.machine_code import HALVES_AND_CHIPS, Function, compile_unit, read

THREADS, REGISTERS = 128, 65536
STEPS = {"forward": 3, "grad_x": 1, "grad_filters": 1}  # unrolled in a loop
# By the template's switches: forward (dropout, packed condition), grad_x (dropout), grad_filters (gradient of the
# condition, of the weight, dropout). Instructions of a step, the same for both number types: half is widened by one
# instruction a number, as bfloat16 is. nvcc 13.0 makes for bfloat16 on sm_90a 178, 274, 311, 404; 194, 312; 336, 472,
# 256, 394, 265, 398, and is within 5 % of that for half and on sm_80; sm_100 takes up to a tenth less.
INSTRUCTIONS = {
    "forward": {"00": 195, "01": 290, "10": 330, "11": 425},
    "grad_x": {"0": 210, "1": 340},
    "grad_filters": {"110": 360, "111": 500, "100": 275, "101": 415, "010": 285, "011": 425},
}
# As many as are to share a processor.
BLOCKS = {
    "forward": {"00": 2, "01": 2, "10": 2, "11": 2},
    "grad_x": {"0": 3, "1": 2},
    "grad_filters": {"110": 2, "111": 2, "100": 4, "101": 4, "010": 2, "011": 2},
}
CASES = [(what, switches) for what, each in INSTRUCTIONS.items() for switches in each]


Kernels = dict[tuple[str, str], Function]


@pytest.fixture(scope="session", params=HALVES_AND_CHIPS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """By name and switches, of one number type and chip."""
    name, chip = request.param.split()
    found = {}
    for function in read(compile_unit(f"fused_{name}_k3", chip)):
        if kernel := re.search(r"2k3\d+(forward|grad_x|grad_filters)I(.*)EEvNS0_", function.symbol):
            found[kernel[1], template_switches(kernel[2])] = function
        else:
            assert "add_parts" in function.symbol
    return found


def template_switches(arguments: str) -> str:
    """The template's arguments but for the type, a digit each."""
    return "".join(re.findall(r"L(?:b|NS0_8PrologueE)(\d)E", arguments + "E"))


def test_nothing_is_missing(kernels: Kernels) -> None:
    assert sorted(kernels) == sorted(CASES)


@pytest.mark.parametrize(("what", "switches"), CASES)
def test_registers(kernels: Kernels, what: str, switches: str) -> None:
    function = kernels[what, switches]
    assert (function.spills, function.stack) == (0, 0)
    given = -(-function.registers // 8) * 8  # they are given out by eights
    assert given * THREADS * BLOCKS[what][switches] <= REGISTERS


@pytest.mark.parametrize(("what", "switches"), CASES)
def test_instructions_of_a_step(kernels: Kernels, what: str, switches: str) -> None:
    loop, steps = kernels[what, switches].loop_of("HMMA"), STEPS[what]
    assert loop.total <= INSTRUCTIONS[what][switches] * steps
    # The gradient of the condition alone is a hair above a tenth on sm_100: two rows of x change places in so few.
    assert loop.counts["MOV"] <= (0.105 if switches[:2] == "10" and what == "grad_filters" else 0.1) * loop.total


@pytest.mark.parametrize(("what", "switches"), CASES)
def test_products_and_memory_of_a_step(kernels: Kernels, what: str, switches: str) -> None:
    """Products, loads and stores by their width, exchanges. Nothing is loaded by two bytes or four."""
    loop, steps = kernels[what, switches].loop_of("HMMA"), STEPS[what]
    wanted = dict.fromkeys(("HMMA", "LDG.128", "LDG.64", "STG.128", "STG.64", "SHFL", "MOVM"), 0)
    if what == "grad_filters":
        cond, weight = switches[0] == "1", switches[1] == "1"
        wanted |= {"HMMA": 24 * cond + 20 * weight, "LDG.64": 8, "LDG.128": 4 * weight, "STG.128": 4 * cond}
        wanted |= {"MOVM": 10 * weight}
    else:
        wanted |= {"HMMA": 20, "LDG.128": 4, "LDG.64": 4 if what == "forward" else 2, "STG.64": 2}
        wanted |= {"SHFL": 0 if what == "forward" else 8}
    assert {name: loop.counts[name] / steps for name in wanted} == wanted
    narrow = [f"{name}.{bits}" for name in ("LDG", "STG", "LDL", "STL") for bits in (8, 16, 32)]
    assert not any(loop.counts[name] for name in narrow)
    assert not loop.counts["BAR"]
