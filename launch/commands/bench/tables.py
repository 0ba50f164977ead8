"""Tables of the benches' rows, and the roofline of `laconvnet bench kernel`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.output import rows
from laconvnet.launch.table import cell
from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import say

# What the tables and the roofline read of a row.
NEEDED = {
    *("name", "baseline", "ratio", "median", "spread", "device", "cache", "peak_mb", "note", "operation", "direction"),
    *("dtype", "preset", "size", "stage", "batch", "pictures", "channels", "side", "kernel_size", "groups", "of_copy"),
    *("gflop_per_s", "flop_per_byte", "copy_bytes_per_s", "product_flop_per_s"),
}

# Said once above a table, where it is the same in all its rows.
_ABOVE = (
    *("device", "cores", "preset", "size", "batch", "precision", "zero", "steps", "threads", "data", "load"),
    *("samples", "shards", "share", "window", "cache", "baseline", "unit"),
)
_UNSEEN = ("bench", "versions", "q1", "q3", "id", "date", "machine", "commit", "dirty", "command")


def is_layer(row: dict[str, Any]) -> bool:
    """Whether `laconvnet bench kernel` wrote it."""
    return bool(row.get("bench", "kernel") == "kernel")


def check_plot(path: Path | None) -> None:
    if path and not path.parent.is_dir():
        raise ConfigError(f"command line: --plot: {path.parent}: no such folder")


def show(table: Sequence[dict[str, Any]]) -> None:
    """A table a layer of `bench kernel` and a summary of them; of the other commands a table a part."""
    layers = [row for row in table if is_layer(row)]
    for name, lines in _by_layer(layers).items():
        say(name)
        rows(lines, False)
        say()
    rows(_summary(layers), False)
    for part in dict.fromkeys(row["bench"] for row in table if not is_layer(row)):
        _show_part([row for row in table if row.get("bench") == part])


def _show_part(lines: Sequence[dict[str, Any]]) -> None:
    first = lines[0]
    shared = {key for key in _ABOVE if key in first and all(line[key] == first[key] for line in lines)}
    say(", ".join([first["bench"], *(f"{key} {cell(first[key])}" for key in _ABOVE if key in shared)]))
    keys = [key for key in dict.fromkeys(key for line in lines for key in line) if key not in {*shared, *_UNSEEN}]
    rows([{key: line.get(key) for key in keys} for line in lines], False)
    say()


def layer(row: dict[str, Any]) -> str:
    shape = "{batch}x{channels}x{side}x{side}, k {kernel_size}, g {groups}".format_map(row)
    return f"{row['operation']}, {row['preset']}@{row['size']} stage {row['stage']}: {shape}, {row['dtype']}"


def _by_layer(table: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """A table a layer, a line a way: times in ms; spread, ratio, rate and memory of forward and backward together."""
    layers: dict[str, dict[str, dict[str, Any]]] = {}
    for row in table:
        heading = f"{layer(row)}, {row['cache']} cache"
        line = layers.setdefault(heading, {}).setdefault(row["name"], {"way": row["name"], "pictures": row["pictures"]})
        line[row["direction"]] = row["median"]
        if row["direction"] == "both":
            line |= {"spread": row["spread"], "ratio": row["ratio"], "of copy": row["of_copy"], "MB": row["peak_mb"]}
            line["note"] = row["note"] or ""
    return {heading: list(lines.values()) for heading, lines in layers.items()}


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


def plot(table: Sequence[dict[str, Any]], path: Path) -> None:
    """Rates of layers over arithmetic intensity, under the roofs of a copy and of a matrix product; none without."""
    from matplotlib.figure import Figure

    kept = [row for row in table if is_layer(row) and row["direction"] != "both" and row["median"] is not None]
    if not kept:
        return
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
