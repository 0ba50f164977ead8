"""`laconvnet doctor`: what this machine has, and whether a run that is planned would work here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.output import rows

_ABOUT = """Check what a run needs and say what it would use. Nothing is built, downloaded or left behind.

A row is ok, a warning (it works, with less or at a risk), an error (a run cannot work) or not there (it is optional).
With a planned run named, it is checked against this machine, its set and the cluster:
  laconvnet doctor --folder /shared/runs --cluster configs/cluster/mine.yaml --processes 64
  laconvnet doctor --data shards/mixed --config configs/pretrain/rec_s.yaml --processes 64
The exit code is 1 where a row is an error."""


def add(commands: Any) -> None:
    command = commands.add_parser(
        "doctor",
        help="what this machine has, and what will be used",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--folder", type=Path, default=Path("runs"), metavar="DIR", help="of runs (default: runs)")
    command.add_argument("--processes", type=int, default=1, metavar="N", help="ranks of the run (default: 1)")
    command.add_argument("--data", type=Path, metavar="DIR", help="the shard set that it reads")
    command.add_argument("--config", type=Path, metavar="FILE", help="its configuration: batch, window, ...")
    command.add_argument("--cluster", type=Path, metavar="FILE", help="the site where it runs")
    command.add_argument("--json", action="store_true", help="print one JSON object a line")
    command.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from laconvnet.launch.doctor import doctor
    from laconvnet.launch.doctor.check import Asked
    from laconvnet.launch.slurm import cluster
    from laconvnet.pipeline.errors import ConfigError

    if arguments.processes < 1:
        raise ConfigError(f"command line: --processes: {arguments.processes}: expected at least 1")
    if arguments.config and not arguments.data:
        raise ConfigError(f"command line: --config: {arguments.config}: expected --data too, the set that it is for")
    config = None
    if arguments.data:
        from laconvnet.pipeline.config import load
        from laconvnet.shards.format.manifest import read_meta

        read_meta(arguments.data)
        config = load(arguments.config, ["--data.folder", str(arguments.data)])
    site = cluster.read(arguments.cluster) if arguments.cluster else None
    asked = Asked(arguments.folder.absolute(), arguments.processes, config, site, arguments.cluster)
    table = doctor(asked)
    rows(table, arguments.json)
    return int(any(row["state"] == "error" for row in table))
