"""`laconvnet launch`, `status`, `logs` and `cancel`: graphs of stages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    _add_launch(commands)
    _add_status(commands)
    _add_logs(commands)
    _add_cancel(commands)


def _add_launch(commands: Any) -> None:
    command = commands.add_parser(
        "launch",
        help="run a graph of stages",
        description="Run the stages of a YAML file in the order of their needs, here or on SLURM. A stage that is done "
        "is found done, one that is in the queue is found there; after a failure or Ctrl-C the same command goes on. "
        "A stage may be an array of jobs of their own: those that are done stay done.",
        epilog="Examples of the file: configs/stages/*.yaml, configs/demo/stages.yaml; of a site's: "
        "configs/cluster/example.yaml.",
    )
    command.add_argument("file", type=Path, metavar="STAGES.yaml", help="the stages")
    command.add_argument(
        "--cluster",
        default="local",
        metavar="C",
        help="where: local is this machine (default); else a SLURM site's file",
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="folder for all stages (default: the file's `folder`)")
    command.add_argument("--dry-run", action="store_true", help="print what would run (batch scripts), run nothing")
    command.add_argument(
        "--set",
        dest="given",
        action="append",
        default=[],
        metavar="KEY=TEXT",
        help="another text for one of the file's `values`, such as raw=/data; may be given several times",
    )
    command.add_argument(
        "--only", metavar="S", help="only this stage; what it needs must be done, or on SLURM in the queue"
    )
    command.add_argument("--from", dest="from_", metavar="S", help="this stage again, and all that need it")
    command.add_argument(
        "--force", action="store_true", help="with --only or --from: also what is done; else everything anew"
    )
    command.set_defaults(command=_launch)


def _launch(arguments: argparse.Namespace) -> int:
    from laconvnet.launch.executor import launch
    from laconvnet.pipeline.errors import ConfigError

    given = {}
    for text in arguments.given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"--set: got {text!r}, expected KEY=TEXT, as in raw=/data")
        given[key] = value

    return launch(
        arguments.file,
        cluster=arguments.cluster,
        out=arguments.out,
        dry_run=arguments.dry_run,
        only=arguments.only,
        from_=arguments.from_,
        force=arguments.force,
        given=given,
    )


def _add_status(commands: Any) -> None:
    command = commands.add_parser(
        "status",
        help="how far stages and runs are",
        description="How far a launched graph, or a single run, is: from its files, and from squeue and sacct. Of an "
        "array, how many of its tasks are done, and which failed where and why.",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="folder of a launched graph, or of a run")
    command.add_argument("--watch", action="store_true", help="refresh until all is done")
    command.add_argument("--json", action="store_true", help="print one JSON object a line")
    command.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> int:
    from laconvnet.launch.status import show

    return show(arguments.folder, watch=arguments.watch, as_json=arguments.json)


def _add_logs(commands: Any) -> None:
    command = commands.add_parser(
        "logs",
        help="what a stage has written",
        description="The output of a stage's newest job: of its batch script and all its ranks, or of one rank; of an "
        "array, of all its tasks or of one.",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="folder of a launched graph")
    command.add_argument("stage", metavar="STAGE", help="one of its stages")
    command.add_argument("--rank", type=int, metavar="N", help="only this process of the stage")
    command.add_argument("--task", type=int, metavar="I", help="only this task of an array, counted from 0")
    command.add_argument("--follow", action="store_true", help="go on until the stage has ended")
    command.set_defaults(command=_logs)


def _logs(arguments: argparse.Namespace) -> int:
    from laconvnet.launch.control import logs

    return logs(arguments.folder, arguments.stage, rank=arguments.rank, follow=arguments.follow, task=arguments.task)


def _add_cancel(commands: Any) -> None:
    command = commands.add_parser(
        "cancel",
        help="end a launched graph or one of its stages",
        description="End the jobs of a launched graph, or of one stage. What they have saved stays; the same launch "
        "goes on from there.",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="folder of a launched graph")
    command.add_argument("stage", nargs="?", metavar="STAGE", help="only this stage (default: all)")
    command.set_defaults(command=_cancel)


def _cancel(arguments: argparse.Namespace) -> int:
    from laconvnet.launch.control import cancel

    return cancel(arguments.folder, arguments.stage)
