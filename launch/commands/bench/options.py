"""What several measurements are asked in the same words."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from laconvnet.launch.commandline import Arg
from laconvnet.pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch

FOLDER = Path("docs/benchmarks")  # of the rows that are kept

Device = Annotated[Literal["cpu", "cuda"] | None, Arg("(default: cuda where there is one)")]
Record = Annotated[
    Path | None,
    Arg(
        "keep the rows as well, with date, machine, commit, versions and this command line, in DIR/DATE-MACHINE.jsonl "
        f"(DIR: {FOLDER} of the working folder)",
        "DIR",
        const=FOLDER,
    ),
]


def device_of(name: str | None) -> torch.device:
    """Raises ConfigError for a GPU that is not there."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("command line: --device: 'cuda': PyTorch finds no GPU here; expected cpu")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def end_of(minutes: float | None) -> float:
    """When nothing more is begun, as `time.monotonic` tells the time."""
    return time.monotonic() + 60 * (float("inf") if minutes is None else minutes)
