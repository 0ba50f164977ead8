"""The machine code of the MLP's and the stem's kernels: what a step costs, on every chip."""

from __future__ import annotations

import re

import pytest

from laconvnet.kernels.cuda.toolchain import ARCHITECTURES
from tests.kernels.machine_code import HALVES_AND_CHIPS, Function, compile_unit, read

# By number of channels and pass: instructions and products (16 x 8 x 16) of the loop, threads a block, and blocks that
# are to share a processor by their registers. A loop takes 16 pixels through all of the hidden channels (16 channels),
# 128 pixels through 32 of them (16 of them: backward_apply of 256), or 16 pixels through those that a warp owns
# (backward_reduce); of moments it takes 64 pixels (256 channels: 32). nvcc 13.0 makes for bfloat16 on sm_90a
#     16: 58, 114, 315, 316; 64: 120, 106, 218, 199; 128: 175, 162, 178, 281; 256: 159, 237, 239, 161.
BUDGETS = {
    (16, "moments"): (70, 4, 128, 4),
    (16, "forward"): (140, 16, 128, 4),
    (16, "backward_reduce"): (350, 32, 128, 2),
    (16, "backward_apply"): (350, 24, 128, 2),
    (64, "moments"): (145, 40, 256, 1),
    (64, "forward"): (125, 32, 256, 2),
    (64, "backward_reduce"): (250, 64, 256, 1),
    (64, "backward_apply"): (225, 48, 256, 1),
    (128, "moments"): (200, 72, 256, 1),
    (128, "forward"): (185, 64, 256, 1),
    (128, "backward_reduce"): (205, 64, 256, 1),
    (128, "backward_apply"): (310, 96, 256, 1),
    (256, "moments"): (185, 68, 256, 1),
    (256, "forward"): (270, 80, 256, 1),
    (256, "backward_reduce"): (275, 96, 256, 1),
    (256, "backward_apply"): (185, 48, 256, 1),
}
REGISTERS = 65536
Kernels = dict[tuple[int, str], Function]


@pytest.fixture(scope="session", params=HALVES_AND_CHIPS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """By number of channels and pass, of one number type and chip."""
    name, chip = request.param.split()
    found = {}
    for function in read(compile_unit(f"mlp_{name}", chip)):
        if kernel := re.search(
            r"3mlp\d(narrow|wide)\d+(moments|forward|backward_reduce|backward_apply)I", function.symbol
        ):
            channels = re.search(r"Li(\d+)E", function.symbol)
            found[int(channels[1]) if channels else 16, kernel[2]] = function
        else:
            assert re.search("add_parts|hidden_statistics", function.symbol), function.symbol
    return found


def test_nothing_is_missing(kernels: Kernels) -> None:
    assert sorted(kernels) == sorted(BUDGETS)


@pytest.mark.parametrize("case", BUDGETS, ids=str)
def test_registers(kernels: Kernels, case: tuple[int, str]) -> None:
    function, (_, _, threads, blocks) = kernels[case], BUDGETS[case]
    assert (function.spills, function.stack) == (0, 0)
    given = -(-function.registers // 8) * 8  # they are given out by eights
    assert given * threads * blocks <= REGISTERS


@pytest.mark.parametrize("case", BUDGETS, ids=str)
def test_what_a_loop_takes(kernels: Kernels, case: tuple[int, str]) -> None:
    """Its instructions and products; maps are never loaded by two bytes or four, nor anything kept out of registers."""
    loop, (instructions, products, *_) = kernels[case].loop_of("HMMA"), BUDGETS[case]
    steps, rest = divmod(loop.counts["HMMA"], products)  # a loop may be unrolled
    assert (steps > 0, rest) == (True, 0)
    assert loop.total <= instructions * steps
    narrow = [f"{name}.{bits}" for name in ("LDG", "LDL", "STL") for bits in (8, 16, 32)]
    assert not any(loop.counts[name] for name in narrow)
    assert not loop.counts["SHFL"]
    if case[0] > 16:
        assert loop.counts["LDSM"] <= products * steps, "an operand of shared memory serves more than one product"


@pytest.mark.parametrize("chip", ARCHITECTURES)
def test_the_stem_fits_its_registers(chip: str) -> None:
    found: dict[str, int] = {}
    for function in read(compile_unit("stem_bf16", chip)):
        assert (function.spills, function.stack) == (0, 0), function.name
        if kernel := re.search(r"4stem\d+(forward|backward)I", function.symbol):
            found[kernel[1]] = max(found.get(kernel[1], 0), function.registers)
    assert sorted(found) == ["backward", "forward"]
    assert found["forward"] * 128 * 4 <= REGISTERS
    assert found["backward"] * 128 * 2 <= REGISTERS
