"""Rows of what was measured in rounds, and what each tells of where that was."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from laconvnet.kernels.bench import Row, spread
from laconvnet.kernels.bench.timing import device_name, quartiles
from laconvnet.pipeline.runs.version import version_of

# A GPU machine may hold little but PyTorch; what needs no more is measured all the same.
_NEEDED = ("deepspeed", "accelerate", "nvidia.dali", "jsonargparse", "pycocotools", "psutil")
_PACKAGES = ("torch", "deepspeed", "accelerate", "nvidia-dali-cuda130")


def rows_of(values: Mapping[str, Sequence[float]], baseline: str, unit: str) -> list[Row]:
    """A row a name: name, baseline, ratio (the baseline's median over this one's), median, q1 and q3 (the quartiles)
    and spread (their distance) over the rounds in ``unit``; over_percent and over_spread: what it is on top of the
    baseline, round by round; over_low and over_high: between these the true middle of over_percent lies, with 95 %
    confidence.
    """
    theirs, rows = values[baseline], []
    for name, ours in values.items():
        over = [100 * (mine / other - 1) for mine, other in zip(ours, theirs, strict=True)]
        low, high = interval(over)
        q1, q3 = quartiles(ours)
        rows.append(
            {
                "name": name,
                "baseline": baseline,
                "ratio": statistics.median(theirs) / statistics.median(ours),
                "median": statistics.median(ours),
                "spread": q3 - q1,
                "q1": q1,
                "q3": q3,
                "unit": unit,
                "over_percent": statistics.median(over),
                "over_spread": spread(over),
                "over_low": low,
                "over_high": high,
                "rounds": len(ours),
                "note": None,
            }
        )
    return rows


def counted(name: str, measure: str, value: float, unit: str, **more: Any) -> Row:
    """The row of a number that is the same each time, unless ``more`` has another spread."""
    return {"name": name, "measure": measure, "median": value, "unit": unit, "spread": 0.0, **more}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values, between which the median of what they are drawn from lies with 95 % confidence.

    Draws fall below it as coins fall (Conover's ranks). Of fewer than six values it is the lowest and the highest, and
    that is less sure.
    """
    ordered = sorted(values)
    rank = max(math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))), 1)
    return ordered[rank - 1], ordered[-rank]


def empty_row(name: str, note: str) -> Row:
    """The row of what could not be measured, and why."""
    numbers = ("ratio", "median", "spread", "q1", "q3", "unit", "rounds")
    over = ("over_percent", "over_spread", "over_low", "over_high")
    return {"name": name, "baseline": name, **dict.fromkeys((*numbers, *over)), "note": note}


def surroundings(device: torch.device | None = None) -> dict[str, Any]:
    """The device where one is given, cores, the load of the last minute, and the versions of what computes."""
    versions = {"python": platform.python_version(), **{name: version_of(name) for name in _PACKAGES}}
    here = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "versions": versions}
    return here if device is None else {"device": device_name(device), **here}


def missing(needed: Sequence[str] | None = None) -> list[str]:
    """The packages of these, by default those that a run needs, that are not here."""
    return [name for name in needed or _NEEDED if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False
