"""What the fused kernels should take on an H100, from their machine code and a model of the chip: a prediction that a
device has to confirm or refute. `python -m tests.kernels.predictions` prints the table of docs/kernels.md;
`python -m tests.kernels.predictions docs/benchmarks` keeps its rows, too.

A layer takes at least the longest of three times: its warps' instructions over the chip's issue slots, its products of
matrices over its tensor cores, and the bytes that must move over the rate of a copy.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from laconvnet.pipeline.bench.record import append, commit
from tests.kernels import test_fused_k3_code as code
from tests.kernels import test_fused_k7_backward_code as backward
from tests.kernels import test_fused_k7_forward_code as forward
from tests.kernels.machine_code import Function, compile_unit, read

# H100 SXM: 132 processors with 4 issue slots each at 1.755 GHz; a product of mma.sync (m16n8k16) every 6.45 cycles of a
# slot, 0.62 of what wgmma reaches; the rate of a copy.
SLOTS, CLOCK, PRODUCT_CYCLES, COPY = 132 * 4, 1.755e9, 6.45, 3.0e12
IMAGES, BYTES = 64, 2
BATCH = f"S at 416, {IMAGES} images, bf16, without dropout"


@dataclass(frozen=True)
class Layer:
    """Of one stage: side in pixels, channels, condition, groups."""

    stage: int
    side: int
    channels: int
    condition: int
    groups: int

    @property
    def pixels(self) -> int:
        return self.side**2 * IMAGES

    def strips(self, columns: int, rows: int) -> float:
        """Steps of `rows` rows in strips of so many columns, for all pictures."""
        return math.ceil(self.side / columns) * math.ceil(self.side / rows) * IMAGES

    def bytes(self, conditions: int, images: int) -> int:
        """So many passes over the condition and over x or its like."""
        return self.pixels * BYTES * (conditions * self.condition + images * self.channels)


LAYERS = (
    Layer(1, 208, 16, 64, 4),
    Layer(2, 104, 64, 128, 4),
    Layer(3, 52, 128, 128, 8),
    Layer(4, 26, 256, 256, 8),
    Layer(5, 13, 512, 512, 16),
)


@dataclass(frozen=True)
class Row:
    """A kernel on a layer: steps of a warp, instructions and products of a step, bytes, registers."""

    layer: Layer
    name: str
    steps: float
    instructions: float
    products: float
    bytes: int
    registers: int

    @property
    def id(self) -> str:
        """Its name among rows of measurements."""
        return f"prediction/s/416/bf16/stage{self.layer.stage}/{self.name}/batch{IMAGES}"

    @property
    def microseconds(self) -> tuple[float, float, float]:
        """By instructions, products and bytes."""
        issue = self.steps * self.instructions / (SLOTS * CLOCK)
        tensor = self.steps * self.products * PRODUCT_CYCLES / (SLOTS * CLOCK)
        return issue * 1e6, tensor * 1e6, self.bytes / COPY * 1e6


def rows() -> Iterator[Row]:
    """All kernels without dropout that bf16 takes on sm_90a."""
    yield from _k3(read(compile_unit("fused_bf16_k3", "90a")), LAYERS[0])
    ahead = {number: found for number, found in _k7_forward()}
    behind = dict(_k7_backward())
    for layer in LAYERS[1:]:
        wide = layer.channels // layer.groups == 32
        function = ahead[layer.condition]
        total, counts = forward.step(function, layer.condition)
        steps = layer.strips(16, 2) * layer.groups
        yield Row(layer, "forward", steps, total, counts["HMMA"], layer.bytes(1, 2), function.registers)
        for kernel, numbers, across, down, warps, moved in (
            ("grad_x_pairs" if wide else "grad_x", f"{layer.condition}", 24, 1, 2 if wide else 1, (1, 2)),
            ("grad_cond", f"{layer.channels // layer.groups}, {layer.condition}, {layer.groups}", 16, 2, 1, (1, 2)),
            ("grad_weight", f"{layer.channels // layer.groups}, {layer.condition}", 16, 2, 2, (1, 2)),
        ):
            if (kernel, numbers) not in behind:
                continue
            function = behind[kernel, numbers]
            total, counts = backward.step(function, backward.BUDGETS[kernel, numbers])
            steps = layer.strips(across, down) * layer.groups * warps
            yield Row(layer, kernel, steps, total, counts["HMMA"], layer.bytes(*moved), function.registers)


def _k3(functions: list[Function], layer: Layer) -> Iterator[Row]:
    plain = {"forward": "00", "grad_x": "0", "grad_filters": "110"}
    found = {}
    for function in functions:
        kernel = re.search(r"2k3\d+(forward|grad_x|grad_filters)I(.*)EEvNS0_", function.symbol)
        if kernel and code.template_switches(kernel[2]) == plain[kernel[1]]:
            found[kernel[1]] = function
    for name, steps, moved in (
        ("forward", layer.strips(16, 1), (1, 2)),
        ("grad_x", layer.strips(14, 1), (1, 2)),
        ("grad_filters", layer.strips(8, 2), (2, 2)),
    ):
        loop, unrolled = found[name].loop_of("HMMA"), code.STEPS[name]
        products = loop.counts["HMMA"] / unrolled
        registers = found[name].registers
        yield Row(layer, name, steps, loop.total / unrolled, products, layer.bytes(*moved), registers)


def _k7_forward() -> Iterator[tuple[int, Function]]:
    for function in read(compile_unit("fused_bf16_k7_forward", "90a")):
        found = re.search(r"k7::(?:wide_)?forward<bfloat16, (\d+), false>", function.name)
        if found:
            yield int(found[1]), function


def _k7_backward() -> Iterator[tuple[tuple[str, str], Function]]:
    for function in read(compile_unit("fused_bf16_k7_backward", "90a")):
        found = re.match(r"k7_backward::k7_(\w+)<\w+, (.*), false>", function.name)
        if found:
            yield (found[1], found[2]), function


def record(found: Sequence[Row], folder: Path) -> str:
    """Keeps the predictions as rows for the page of measurements; the name that links begin with."""
    now = datetime.now(UTC)
    stem = f"{now:%Y-%m-%d}-h100-by-the-model"
    told = {
        "bench": "prediction",
        "date": now.isoformat(timespec="seconds"),
        "machine": "h100-by-the-model",
        **commit(),
    }
    told |= {"command": "python -m tests.kernels.predictions", "device": "model of an H100, nothing was measured"}
    for row in found:
        bound = dict(zip(("by_instructions", "by_products", "by_bytes"), row.microseconds, strict=True))
        numbers = {"median": max(row.microseconds), "unit": "us", "rounds": 1, **bound, "registers": row.registers}
        step = {"instructions": row.instructions, "products": row.products, "note": f"predicted for {BATCH}"}
        append(folder / f"{stem}.jsonl", [{"id": row.id, "name": row.name, **told, **numbers, **step}])
    return stem


def main() -> None:
    """Prints the table; with a folder, keeps the rows there and links to them."""
    found = list(rows())
    stem = record(found, Path(sys.argv[1])) if len(sys.argv) > 1 else None
    print(f"{BATCH}; microseconds, the longest decides:\n")
    print("| stage | kernel | registers | instructions and products of a step | by instructions | products | bytes |")
    print("|---|---|---|---|---|---|---|")
    for row in found:
        longest = max(row.microseconds)
        link = f"[{longest:.0f}](benchmarks/README.md#{stem}/{row.id})" if stem else f"{longest:.0f}"
        cells = (f"**{link}**" if time == longest else f"{time:.0f}" for time in row.microseconds)
        step = f"{row.instructions:.0f}, {row.products:.0f}"
        print(f"| {row.layer.stage} | {row.name} | {row.registers} | {step} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
