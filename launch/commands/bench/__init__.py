"""`laconvnet bench`: measurements on this machine."""

from __future__ import annotations

from typing import Any

from laconvnet.launch.commands.bench import bytes, compare, data, infer, kernel, scale, shards, show, train


def add(commands: Any) -> None:
    group = commands.add_parser(
        "bench", help="measurements on this machine", description="Measure parts of the pipeline on this machine."
    ).add_subparsers(required=True, metavar="COMMAND")
    for command in (kernel, data, shards, train, infer, bytes, scale, compare, show):
        command.add(group)
