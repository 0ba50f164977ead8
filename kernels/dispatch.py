"""Which path serves a layer on which chip, as it was measured there: rows in a file, and nothing about it in code.

A row of `cuda/dispatch.json` tells of one layer on one chip how long the fused kernels took and how long the dependable
path did, in ms. Where the second was faster it serves; a layer that was not measured is served by the fused kernels.
`laconvnet bench kernel --device cuda --dispatch FILE` writes such rows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from laconvnet.files import publish_json, read_json

FILE = Path(__file__).resolve().parent / "cuda" / "dispatch.json"
FUSED, CHUNKS = "fused", "chunks"  # the two paths, as the bench names them
_LAYER = ("direction", "dtype", "kernel_size", "channels", "condition", "groups")
Measured = tuple[Any, ...]  # the values of _LAYER


def slower(chip: str, layer: Measured, pixels: int) -> bool:
    """Whether the fused kernels were slower than the dependable path for this layer, at the size nearest to `pixels`.

    `chip` is the name that CUDA gives, `layer` direction (forward or backward), dtype (such as bf16), kernel size,
    channels, condition and groups.
    """
    measured = _rows().get((chip, *layer))
    if not measured:
        return False
    nearest = min(measured, key=lambda row: abs(row["pixels"] - pixels))
    return bool(nearest[CHUNKS] < nearest[FUSED])


@functools.cache
def _rows() -> dict[Measured, list[dict[str, Any]]]:
    found: dict[Measured, list[dict[str, Any]]] = {}
    for row in read_json(FILE):
        found.setdefault((row["chip"], *(row[name] for name in _LAYER)), []).append(row)
    return found


def pairs(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The file's rows from those of `kernels.bench`: of layers that both paths were timed for, with a warm cache."""
    timed: dict[Measured, dict[str, Any]] = {}
    for row in rows:
        wanted = row["operation"] == "laconv" and row["direction"] != "both" and row["cache"] == "warm"
        if wanted and row["name"] in (FUSED, CHUNKS) and row["median"] is not None:
            layer = {"chip": row["device"], **{name: row[name] for name in _LAYER}, "pixels": row["side"] ** 2}
            timed.setdefault(tuple(layer.values()), layer)[row["name"]] = row["median"] / row["pictures"]
    return [layer for layer in timed.values() if FUSED in layer and CHUNKS in layer]


def keep(rows: Iterable[Mapping[str, Any]], file: Path) -> int:
    """Writes the pairs of these bench rows into `file`, in the place of older ones of the same layers; how many."""
    new = {_layer(row): row for row in pairs(rows)}
    old = {_layer(row): row for row in (read_json(file) if file.exists() else [])}
    publish_json(file, [row for _, row in sorted((old | new).items())])
    return len(new)


def _layer(row: Mapping[str, Any]) -> Measured:
    return tuple(row[name] for name in ("chip", *_LAYER, "pixels"))
