"""Rows that are printed may be kept as well, with a date."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laconvnet.pipeline.bench.record import Recorder

FOLDER = Path("docs/benchmarks")


def add_record(command: Any) -> None:
    command.add_argument(
        "--record",
        type=Path,
        nargs="?",
        const=FOLDER,
        metavar="DIR",
        help="keep the rows as well, with date, machine, commit, versions and this command line, in DIR/DATE-MACHINE"
        f".jsonl (DIR: {FOLDER} of the working folder)",
    )


def recorder(arguments: argparse.Namespace) -> Recorder:
    """Keeps rows where --record says. Raises ConfigError where nothing can be written there."""
    from laconvnet.pipeline.bench.record import Recorder

    return Recorder(arguments.record, shlex.join(["laconvnet", *sys.argv[1:]]))
