"""`laconvnet doctor`: what this machine has, and whether a run that is planned would work here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from laconvnet.launch import commandline
from laconvnet.launch.advice import of_checks
from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.output import rows
from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import say


def add(commands: Any) -> None:
    commandline.add(commands, doctor)


def doctor(
    *,
    folder: Annotated[Path, Arg("of runs", "DIR")] = Path("runs"),
    processes: Annotated[int, Arg("ranks of the run", "N", at_least=1)] = 1,
    data: Annotated[Path | None, Arg("the shard set that it reads, or its URL", "DIR", url=True)] = None,
    config: Annotated[Path | None, Arg("its configuration: batch, window, ...", "FILE")] = None,
    cluster: Annotated[Path | None, Arg("the site where it runs", "FILE")] = None,
    json: JsonLines = False,
) -> int:
    """What this machine has, and what will be used.

    Check what a run needs and say what it would use. Nothing is built, downloaded or left behind.

    A row is ok, a warning (it works, with less or at a risk), an error (a run cannot work) or not there (it is
    optional). With a planned run named, it is checked against this machine, its set and the cluster:
      laconvnet doctor --folder /shared/runs --cluster configs/cluster/mine.yaml --processes 64
      laconvnet doctor --data shards/mixed --config configs/pretrain/rec_s.yaml --processes 64
    The last lines count the rows and say what to mend. The exit code is 1 where a row is an error.
    """
    from laconvnet.launch.doctor import doctor as examine
    from laconvnet.launch.doctor.check import PlannedRun
    from laconvnet.launch.slurm import cluster as sites

    if config and not data:
        raise ConfigError(f"command line: --config: {config}: expected --data too, the set that it is for")
    planned = None
    if data:
        from laconvnet.pipeline import config as configuration
        from laconvnet.shards.format.manifest import local_folder, read_meta

        read_meta(local_folder(data))
        planned = configuration.load(config, ["--data.folder", str(data)])
    site = sites.read(cluster) if cluster else None
    table = examine(PlannedRun(folder.absolute(), processes, planned, site, cluster))
    rows(table, json)
    if not json:
        say("\n".join(["", *of_checks(table)]))
    return int(any(row["state"] == "error" for row in table))
