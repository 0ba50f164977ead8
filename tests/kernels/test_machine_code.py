"""What the loops of the dependable CUDA path cost on a chip: budgets that a change must not pass unseen.

They hold for the pinned compiler (constraints.txt) and sm_90a; registers are those of three blocks a processor.
"""

from __future__ import annotations

import pytest

from tests.kernels.machine_code import HALVES, Function, compile_unit, read

SLOT = 65_536 // (3 * 128) // 8 * 8  # registers a thread: three blocks of 128
SHORT_LOADS = ("LDG.8", "LDG.16")
LOCAL = tuple(f"{name}.{bits}" for name in ("LDL", "STL") for bits in (32, 64, 128))


@pytest.fixture(scope="module", params=HALVES)
def k7(request: pytest.FixtureRequest) -> dict[str, Function]:
    """The kernels of kernel size 7, by name without the number type."""
    functions = read(compile_unit(f"{request.param}_k7", "90a"))
    return {function.name.replace("bfloat16, ", "").replace("half, ", ""): function for function in functions}


def test_nothing_leaves_the_registers(k7: dict[str, Function]) -> None:
    for name, function in k7.items():
        assert (function.spills, function.stack) == (0, 0), name
        assert not any(function.whole.counts[operation] for operation in LOCAL), name


@pytest.mark.parametrize(
    ("kernel", "widest_loads", "most"),
    [
        ("gather_rows<7, 8, FORWARD>", 14, 460),  # a row of each of 4 pixels, 10 neighbours
        ("gather_rows<7, 8, GRAD_X>", 10, 500),
    ],
)
def test_a_kernel_row_of_eight_channels(k7: dict[str, Function], kernel: str, widest_loads: int, most: int) -> None:
    """Of a strip of 4 pixels: 4 x 7 taps x 8 channels. Loading filters one by one takes 903 instructions for these."""
    function = k7[kernel]
    row = function.loop_of("FFMA")
    counts = row.counts
    assert counts["FFMA"] == 224
    assert row.total <= most <= 500
    assert counts["LDG.128"] >= widest_loads
    loads = sum(count for name, count in counts.items() if name.startswith("LDG"))
    assert loads <= widest_loads + (10 if "GRAD_X" in kernel else 0) + 1
    assert counts["MOV"] <= row.total * 0.1
    assert function.registers <= SLOT


def test_no_filter_is_loaded_alone(k7: dict[str, Function]) -> None:
    """Numbers of two bytes come in words. ptxas itself may shorten a load of which one number is used."""
    for name in ("gather_rows<7, 8, FORWARD>", "gather_rows<7, 4, FORWARD>"):
        assert not any(k7[name].whole.counts[load] for load in SHORT_LOADS)
    for name in ("gather_rows<7, 8, GRAD_X>", "gather_rows<7, 4, GRAD_X>"):
        assert sum(k7[name].loop_of("FFMA").counts[load] for load in SHORT_LOADS) <= 2
    for name in ("grad_filter_rows<7, 8>", "grad_filter_rows<7, 4>"):
        assert not any(k7[name].whole.counts[load] for load in (*SHORT_LOADS, "STG.16"))


@pytest.mark.parametrize(("vector", "load", "most"), [(8, "LDG.128", 400), (4, "LDG.64", 230)])
def test_the_gradient_of_a_kernel_row_of_filters(k7: dict[str, Function], vector: int, load: str, most: int) -> None:
    """For so many channels of a strip of 4 pixels: 4 own gradients, 10 neighbours."""
    function = k7[f"grad_filter_rows<7, {vector}>"]
    channels = function.loop_of("FFMA")
    assert channels.counts["FFMA"] == 28 * vector
    assert channels.counts[load] == 14
    assert channels.total <= most
    assert channels.counts["MOV"] <= channels.total * 0.1
    assert function.whole.counts["STG.128"] == 4
    assert not function.whole.counts["BAR"]


def test_filters_that_lie_alone_show_in_the_counts(k7: dict[str, Function]) -> None:
    """The control of these budgets: the kernel for filters that are given, one by one."""
    row = k7["gather<7, 8, ONE, FORWARD>"].loop_of("FFMA")
    assert row.counts["FFMA"] == 224
    assert row.counts["LDG.16"] == 28
    assert row.total > 800


def test_a_kernel_row_of_four_channels_of_kernel_size_3() -> None:
    """Kernel size 3 with four channels a group: a row of each pixel is 8 bytes."""
    functions = {function.name: function for function in read(compile_unit("bf16_k3", "90a"))}
    for direction, most in (("FORWARD", 170), ("GRAD_X", 180)):
        function = functions[f"gather_rows<bfloat16, 3, 4, {direction}>"]
        row = function.loop_of("FFMA")
        assert row.counts["FFMA"] == 48
        assert not any(row.counts[load] for load in SHORT_LOADS)
        assert row.total <= most
        assert (function.spills, function.stack) == (0, 0)
