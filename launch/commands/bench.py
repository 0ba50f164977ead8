"""`laconvnet bench`: measurements on this machine."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.commands.output import rows

if TYPE_CHECKING:
    import torch

    from kernels.bench import Case

_DATA = """Time the way of the pictures on this machine: decoding and letterboxing 640x480 JPEGs to 416 from memory, in
several formulations, each with its error against an exact one; the whole loader against that; finding a position in 1e9
samples; and the first batch of a set of 1e6. Rows tell the median over interleaved rounds and the distance of the
quartiles; the ratio is the baseline's median by the row's."""

_KERNEL = """Time the LaConv operator at every stage of a network, beside what it replaces.

Each layer is measured as `dynamic_conv` (filters given) and as `laconv` (filters projected from the condition), forward
and backward apart and together. The ways:
  unfold           unfold + einsum in eager PyTorch; the baseline of every ratio
  unfold_compiled  the same under torch.compile (minutes of compiling; --quick leaves it out)
  taps             our loop over taps in plain PyTorch, used where no compiled kernel is
  involution       one thread an output number, as the authors' kernel (GPU, where it is built)
  laconv           what the operator uses on this device
All ways run once a round, so that a busy machine slows all of them alike. A row tells the median over rounds in ms,
the distance of the quartiles, the ratio (baseline's median / median, each by its number of pictures: unfold takes fewer
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
# What the tables and the roofline read of a row.
_NEEDED = {
    *("name", "baseline", "ratio", "median", "spread", "device", "cache", "peak_mb", "note", "operation", "direction"),
    *("dtype", "preset", "size", "stage", "batch", "pictures", "channels", "side", "kernel_size", "groups", "of_copy"),
    *("gflop_per_s", "flop_per_byte", "copy_bytes_per_s", "product_flop_per_s"),
}


def add(commands: Any) -> None:
    group = commands.add_parser(
        "bench", help="measurements on this machine", description="Measure parts of the pipeline on this machine."
    ).add_subparsers(required=True, metavar="COMMAND")
    kernel = group.add_parser(
        "kernel",
        help="the LaConv operator against unfold + einsum",
        description=_KERNEL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kernel.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    kernel.add_argument("--dtype", nargs="+", choices=("fp32", "bf16", "fp16"), help="number types")
    kernel.add_argument("--preset", nargs="+", metavar="P", help="networks, as in `laconvnet model info`")
    kernel.add_argument("--size", nargs="+", type=int, metavar="N", help="sides of the picture (64 for tiny)")
    kernel.add_argument("--batch", type=int, metavar="N", help="pictures (default: as many as there is room for)")
    kernel.add_argument("--rounds", type=int, metavar="N", help="times each way runs (default: 9)")
    kernel.add_argument("--quick", action="store_true", help="3 rounds, nothing compiled, on a CPU 2 pictures at most")
    kernel.add_argument("--minutes", type=float, metavar="N", help="begin no layer after these")
    kernel.add_argument("--plot", type=Path, metavar="FILE", help="draw a roofline of what was measured, as PNG")
    kernel.add_argument("--json", action="store_true", help="print one JSON object a row")
    kernel.set_defaults(command=_kernel)
    data = group.add_parser("data", help="decoding, loading and seeking", description=_DATA)
    data.add_argument("--pictures", type=int, default=16, metavar="N", help="pictures of a batch (default: 16)")
    data.add_argument("--threads", type=int, default=2, metavar="N", help="threads that read and decode (default: 2)")
    data.add_argument("--rounds", type=int, default=9, metavar="N", help="times each way runs (default: 9)")
    data.add_argument("--json", action="store_true", help="print one JSON object a row")
    data.set_defaults(command=_data)
    show = group.add_parser(
        "show", help="tables of rows that were kept", description="Print the tables of `bench kernel --json`, kept."
    )
    show.add_argument("file", type=Path, help="rows, one JSON object a line")
    show.add_argument("--plot", type=Path, metavar="FILE", help="draw a roofline of them, as PNG")
    show.set_defaults(command=_show)


def _kernel(arguments: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from kernels import bench
    from kernels.bench.run import DTYPES, OPERATIONS
    from pipeline.errors import ConfigError

    for name in ("rounds", "batch", "size", "minutes"):
        value = getattr(arguments, name)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (number > 0 if name == "minutes" else number >= 1):
                raise ConfigError(f"command line: --{name}: expected a positive number, got {number}")
    _check_plot(arguments.plot)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("command line: --device: 'cuda': PyTorch finds no GPU here; expected cpu")
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    names = arguments.dtype or (["bf16", "fp32"] if device.type == "cuda" else ["fp32"])
    cases = _cases(arguments, device, max((DTYPES[name] for name in names), key=lambda dtype: dtype.itemsize))
    rounds = arguments.rounds or (3 if arguments.quick else 9)
    end = time.monotonic() + 60 * (float("inf") if arguments.minutes is None else arguments.minutes)
    table: list[dict[str, Any]] = []
    lists = bench.rows(cases, names, device, rounds, not arguments.quick, arguments.quick)
    total = len(cases) * len(names) * len(OPERATIONS)
    with tqdm(lists, total=total, unit="layer", desc="bench") as bar:
        for found in bar:
            table += found
            if arguments.json:
                for row in found:
                    print(json.dumps(row), flush=True)
            if time.monotonic() > end:
                break
    missing = total - len({_layer(row) for row in table})
    if missing:
        left = f"{missing} of {total} layers were not begun within {arguments.minutes:g} minutes"
        print(f"laconvnet: {left}", file=sys.stderr)
    if not arguments.json:
        _tables(table)
    if arguments.plot:
        _plot(table, arguments.plot)
    failed = sum(str(row["note"]).startswith("failed: ") for row in table)
    if failed:
        print(f"laconvnet: {failed} rows have no numbers: that way failed; the notes tell why", file=sys.stderr)
    return 1 if failed else 0


def _data(arguments: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from pipeline.bench import data
    from pipeline.errors import ConfigError

    for name in ("pictures", "threads", "rounds"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"command line: --{name}: {getattr(arguments, name)}: expected at least 1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = data.rows(device, arguments.pictures, arguments.threads, arguments.rounds)
    for found in tqdm(parts, total=4, desc="bench", unit="part"):
        # Not every row has every number, and JSON has no NaN.
        table = [{key: None if value != value else value for key, value in row.items()} for row in found]
        rows(table, arguments.json)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    _check_plot(arguments.plot)
    table = _read(arguments.file)
    _tables(table)
    if arguments.plot and table:
        _plot(table, arguments.plot)
    return 0


def _read(path: Path) -> list[dict[str, Any]]:
    from pipeline.errors import ConfigError

    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    table = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not row.keys() >= _NEEDED:
            raise ConfigError(f"{path}: line {number}: expected a row of `laconvnet bench kernel --json`")
        table.append(row)
    return table


def _check_plot(path: Path | None) -> None:
    from pipeline.errors import ConfigError

    if path and not path.parent.is_dir():
        raise ConfigError(f"command line: --plot: {path.parent}: no such folder")


def _cases(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> list[Case]:
    """The distinct layers of the presets; a layer that several have is measured once, under all their names."""
    from dataclasses import replace

    import torch

    from kernels.bench import Case
    from pipeline.errors import ConfigError
    from pipeline.model import PRESETS
    from pipeline.model.net import STRIDES

    on_gpu = device.type == "cuda"
    found: dict[Case, list[str]] = {}
    for preset in dict.fromkeys(arguments.preset or (["s", "b"] if on_gpu else ["s"])):
        if preset not in PRESETS:
            raise ConfigError(f"command line: --preset: {preset!r}: expected some of {', '.join(PRESETS)}")
        usual = [64] if preset == "tiny" else [224, 416] if on_gpu else [416]
        for size in dict.fromkeys(arguments.size or usual):
            if size % STRIDES[-1]:
                raise ConfigError(f"command line: --size: expected a multiple of {STRIDES[-1]}, got {size}")
            net = PRESETS[preset]
            for stage, stride in enumerate(STRIDES):
                for kernel_size in dict.fromkeys(net.kernels[stage]):
                    case = Case(
                        label="",
                        size=size,
                        stage=stage + 1,
                        batch=1,
                        unfold_batch=1,
                        channels=net.dims[stage],
                        condition=net.conditions[stage],
                        side=size // stride,
                        kernel_size=kernel_size,
                        groups=net.groups[stage],
                    )
                    found.setdefault(case, []).append(preset)
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else 0

    def batches(case: Case) -> dict[str, int]:
        """Pictures, and as many of them as unfold has room for."""
        room = min(_UNFOLD_BYTES["cuda"], free // 8) if on_gpu else _UNFOLD_BYTES["cpu"]
        fitting = max(1, room // case.unfold_bytes(dtype))
        if not on_gpu:
            batch = arguments.batch or min(fitting, 2 if arguments.quick else _LARGEST_BATCH["cpu"])
            return {"batch": batch, "unfold_batch": batch}
        # Inputs, results and gradients of the other ways, in several layouts.
        ours = max(1, free // (4 * case.bytes("dynamic_conv", "both", dtype)))
        batch = arguments.batch or min(ours, _LARGEST_BATCH["cuda"])
        return {"batch": batch, "unfold_batch": min(batch, fitting)}

    return [replace(case, label=",".join(names), **batches(case)) for case, names in found.items()]


def _tables(table: Sequence[dict[str, Any]]) -> None:
    for layer, lines in _by_layer(table).items():
        print(layer)
        rows(lines, False)
        print()
    rows(_summary(table), False)


def _layer(row: dict[str, Any]) -> str:
    shape = "{batch}x{channels}x{side}x{side}, k {kernel_size}, g {groups}".format_map(row)
    return f"{row['operation']}, {row['preset']}@{row['size']} stage {row['stage']}: {shape}, {row['dtype']}"


def _by_layer(table: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """A table a layer, a line a way: times in ms; spread, ratio, rate and memory of forward and backward together."""
    layers: dict[str, dict[str, dict[str, Any]]] = {}
    for row in table:
        layer = f"{_layer(row)}, {row['cache']} cache"
        line = layers.setdefault(layer, {}).setdefault(row["name"], {"way": row["name"], "pictures": row["pictures"]})
        line[row["direction"]] = row["median"]
        if row["direction"] == "both":
            line |= {"spread": row["spread"], "ratio": row["ratio"], "of copy": row["of_copy"], "MB": row["peak_mb"]}
            line["note"] = row["note"] or ""
    return {layer: list(lines.values()) for layer, lines in layers.items()}


def _summary(table: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Against the baseline: the worst layer and the middle one of each network."""
    ratios: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in table:
        if row["direction"] != "backward" and row["name"] != row["baseline"] and row["ratio"] is not None:
            key = tuple(str(row[name]) for name in ("operation", "preset", "size", "dtype", "cache", "name"))
            ratios.setdefault(key, {"forward": [], "both": []})[row["direction"]].append(row["ratio"])
    headings = ("operation", "preset", "size", "dtype", "cache", "way")
    return [
        {
            **dict(zip(headings, key, strict=True)),
            "layers": len(found["both"]),
            "least ratio": min(found["both"]),
            "median ratio": statistics.median(found["both"]),
            "least forward": min(found["forward"]),
            "median forward": statistics.median(found["forward"]),
        }
        for key, found in ratios.items()
    ]


def _plot(table: Sequence[dict[str, Any]], path: Path) -> None:
    """Rates over arithmetic intensity, under the roofs of a copy and of a matrix product."""
    from matplotlib.figure import Figure

    kept = [row for row in table if row["direction"] != "both" and row["median"] is not None]
    panels = sorted({(row["dtype"], row["cache"]) for row in kept})
    figure = Figure(figsize=(7 * len(panels), 5), layout="constrained")
    for place, (dtype, cache) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        here = [row for row in kept if (row["dtype"], row["cache"]) == (dtype, cache)]
        reach = [min(row["flop_per_byte"] for row in here) / 2, max(row["flop_per_byte"] for row in here) * 2]
        copy, product = here[0]["copy_bytes_per_s"] / 1e9, here[0]["product_flop_per_s"] / 1e9
        corner = sorted({*reach, min(max(product / copy, reach[0]), reach[1])})
        axes.plot(corner, [min(product, copy * x) for x in corner], color="black", label="copy, matrix product")
        for name in dict.fromkeys(row["name"] for row in here):
            for direction, marker in (("forward", "o"), ("backward", "s")):
                drawn = [row for row in here if (row["name"], row["direction"]) == (name, direction)]
                axes.plot(
                    [row["flop_per_byte"] for row in drawn],
                    [row["gflop_per_s"] for row in drawn],
                    marker,
                    label=f"{name}, {direction}",
                    alpha=0.7,
                )
        axes.set(xscale="log", yscale="log", xlabel="FLOP per byte that must move", ylabel="GFLOP/s")
        axes.set_title(f"{here[0]['device']}\n{dtype}, {cache} cache")
        axes.legend(fontsize="small")
    figure.savefig(path, format="png", dpi=120)
