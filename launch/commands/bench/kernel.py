"""`laconvnet bench kernel`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconvnet.launch.commands.bench.device import add_device, device_of
from laconvnet.launch.commands.bench.layers import layers_of
from laconvnet.launch.commands.bench.record import add_record, recorder
from laconvnet.launch.commands.bench.tables import check_plot, layer, plot, show_layers

if TYPE_CHECKING:
    import torch

    from laconvnet.kernels.bench import Case

_KERNEL = """Time the LaConv operator at every stage of a network, beside what it replaces.

Each layer is measured as `dynamic_conv` (filters given) and as `laconv` (filters projected from the condition), forward
and backward apart and together. The ways:
  unfold           unfold + einsum in eager PyTorch; the baseline of every ratio
  unfold_compiled  the same under torch.compile (minutes of compiling; --quick leaves it out)
  taps             our loop over taps in plain PyTorch, used where no compiled kernel is
  involution       one thread an output number, as the authors' kernel (GPU, where it is built)
  laconv           what the operator uses on this device
All ways run once a round, so that a busy machine slows all of them alike. A row tells the median over rounds in ms,
the distance of the quartiles, the ratio (baseline's median / median, each by its number of images: unfold takes fewer
where it has no room for all), GB/s over the bytes that must move at least, the part of the rate of a copy measured in
the same run, and the memory taken. A GPU is timed by its own events, with warm and with flushed cache. float32 is
without TF32 in every way.

Defaults: on a CPU preset s, 416 pixels, fp32; on a GPU presets s and b, 224 and 416 pixels, bf16 and fp32.

  laconvnet bench kernel --preset tiny --quick
  laconvnet bench kernel --device cuda --preset s b --dtype bf16 --json > kernel.jsonl
  laconvnet bench show kernel.jsonl
"""
# The tensor of unfold decides what fits: bytes for it, of which the baseline holds about four. On a GPU below 2^31
# numbers of any type, too.
_UNFOLD_BYTES = {"cpu": 320 * 2**20, "cuda": 4 * 2**30}
_LARGEST_BATCH = {"cpu": 32, "cuda": 64}


def add(group: Any) -> None:
    kernel = group.add_parser(
        "kernel",
        help="the LaConv operator against unfold + einsum",
        description=_KERNEL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_device(kernel)
    kernel.add_argument("--dtype", nargs="+", choices=("fp32", "bf16", "fp16"), help="number types")
    kernel.add_argument("--preset", nargs="+", metavar="P", help="networks, as in `laconvnet model info`")
    kernel.add_argument("--size", nargs="+", type=int, metavar="N", help="sides of the image (64 for tiny)")
    kernel.add_argument("--batch", type=int, metavar="N", help="images (default: as many as there is room for)")
    kernel.add_argument("--rounds", type=int, metavar="N", help="times each way runs (default: 9)")
    kernel.add_argument("--quick", action="store_true", help="3 rounds, nothing compiled, on a CPU 2 images at most")
    kernel.add_argument("--minutes", type=float, metavar="N", help="begin no layer after these")
    kernel.add_argument("--plot", type=Path, metavar="FILE", help="draw a roofline of what was measured, as PNG")
    kernel.add_argument("--json", action="store_true", help="print one JSON object a row")
    add_record(kernel)
    kernel.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from laconvnet.kernels import bench
    from laconvnet.kernels.bench.run import DTYPES, OPERATIONS
    from laconvnet.pipeline.errors import ConfigError

    for name in ("rounds", "batch", "size", "minutes"):
        value = getattr(arguments, name)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (number > 0 if name == "minutes" else number >= 1):
                raise ConfigError(f"command line: --{name}: expected a positive number, got {number}")
    check_plot(arguments.plot)
    device = device_of(arguments.device)
    names = arguments.dtype or (["bf16", "fp32"] if device.type == "cuda" else ["fp32"])
    cases = _cases(arguments, device, max((DTYPES[name] for name in names), key=lambda dtype: dtype.itemsize))
    rounds = arguments.rounds or (3 if arguments.quick else 9)
    end = time.monotonic() + 60 * (float("inf") if arguments.minutes is None else arguments.minutes)
    keep = recorder(arguments)
    table: list[dict[str, Any]] = []
    lists = bench.rows(cases, names, device, rounds, not arguments.quick, arguments.quick)
    total = len(cases) * len(names) * len(OPERATIONS)
    with tqdm(lists, total=total, unit="layer", desc="bench") as bar:
        for found in bar:
            keep.add(found)
            table += found
            if arguments.json:
                for row in found:
                    print(json.dumps(row), flush=True)
            if time.monotonic() > end:
                break
    missing = total - len({layer(row) for row in table})
    if missing:
        left = f"{missing} of {total} layers were not begun within {arguments.minutes:g} minutes"
        print(f"laconvnet: {left}", file=sys.stderr)
    if not arguments.json:
        show_layers(table)
    if arguments.plot:
        plot(table, arguments.plot)
    failed = sum(str(row["note"]).startswith("failed: ") for row in table)
    if failed:
        print(f"laconvnet: {failed} rows have no numbers: that way failed; the notes tell why", file=sys.stderr)
    return 1 if failed else 0


def _cases(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> list[Case]:
    """The layers to measure, each with the images that there is room for."""
    from dataclasses import replace

    import torch

    on_gpu = device.type == "cuda"
    presets = arguments.preset or (["s", "b"] if on_gpu else ["s"])
    layers = layers_of(presets, arguments.size, [224, 416] if on_gpu else [416])
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else 0

    def sized(case: Case) -> Case:
        """With its images, and as many of them as unfold has room for."""
        room = min(_UNFOLD_BYTES["cuda"], free // 8) if on_gpu else _UNFOLD_BYTES["cpu"]
        fitting = max(1, room // case.unfold_bytes(dtype))
        if not on_gpu:
            batch = arguments.batch or min(fitting, 2 if arguments.quick else _LARGEST_BATCH["cpu"])
            return replace(case, batch=batch, unfold_batch=batch)
        # Inputs, results and gradients of the other ways, in several layouts.
        ours = max(1, free // (4 * case.bytes("dynamic_conv", "both", dtype)))
        batch = arguments.batch or min(ours, _LARGEST_BATCH["cuda"])
        return replace(case, batch=batch, unfold_batch=min(batch, fitting))

    return [sized(case) for case in layers]
