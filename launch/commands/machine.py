"""`laconvnet doctor`: what this machine has."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    command = commands.add_parser(
        "doctor",
        help="what this machine has, and what will be used",
        description="Check what a run needs and say what it would use.",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object a line")
    command.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from launch.doctor import show

    return show(arguments.json)
