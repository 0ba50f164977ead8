"""`laconvnet launch`, `status`, `logs` and `cancel`: graphs of stages."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from laconvnet.launch import commandline
from laconvnet.launch.commandline import Arg, Json, JsonLines
from laconvnet.pipeline.errors import ConfigError

Graph = Annotated[Path, Arg("folder of a launched graph", "DIR")]


def add(commands: Any) -> None:
    commandline.add(commands, launch, status, logs, cancel)


def launch(
    line: argparse.ArgumentParser,
    file: Annotated[Path, Arg("the stages", "STAGES.yaml")],
    *,
    cluster: Annotated[str, Arg("where: local is this machine (default); else a SLURM site's file", "C")] = "local",
    out: Annotated[Path | None, Arg("folder for all stages (default: the file's `folder`)", "DIR")] = None,
    dry_run: Annotated[bool, Arg("print what would run (batch scripts), run nothing")] = False,
    given: Annotated[
        Sequence[str],
        Arg(
            "another text for one of the file's `values`, such as raw=/data; may be given several times",
            "KEY=TEXT",
            flag="--set",
            append=True,
        ),
    ] = (),
    only: Annotated[
        str | None, Arg("only this stage; what it needs must be done, or on SLURM in the queue", "S")
    ] = None,
    with_needs: Annotated[bool, Arg("with --only: also what it needs, directly or not, and is not done")] = False,
    from_: Annotated[str | None, Arg("this stage again, and all that need it", "S")] = None,
    force: Annotated[bool, Arg("with --only or --from: also what is done; else everything anew")] = False,
    json: Annotated[bool, Arg("print one JSON object a stage: what would run, or how far it is in the end")] = False,
) -> int:
    """Run a graph of stages.

    Run the stages of a YAML file in the order of their needs, here or on SLURM. A stage that is done is found done, one
    that is in the queue is found there; after a failure or Ctrl-C the same command goes on. A stage may be an array of
    jobs of their own: those that are done stay done.

    Examples of the file: configs/stages/*.yaml, configs/demo/stages.yaml; of a site's: configs/cluster/example.yaml.

    For example:
      laconvnet launch configs/stages/refcoco.yaml --set raw=/data --dry-run
      laconvnet launch configs/stages/refcoco.yaml --set raw=/data --cluster SITE.yaml
      laconvnet launch configs/stages/vqa.yaml --set raw=/data --only eval-clevr --with-needs
    """
    from laconvnet.launch import executor

    values = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"--set: got {text!r}, expected KEY=TEXT, as in raw=/data")
        values[key] = value
    return executor.launch(file, line, cluster, out, dry_run, only, from_, force, values, with_needs, json)


def status(
    folder: Annotated[Path, Arg("folder of a launched graph, or of a run", "DIR")],
    *,
    watch: Annotated[bool, Arg("refresh until all is done")] = False,
    json: JsonLines = False,
) -> int:
    """How far stages and runs are.

    How far a launched graph, or a single run, is: from its files, and from squeue and sacct. Of an array, how many of
    its tasks are done, and which failed where and why.

    For example:
      laconvnet status runs/refcoco --watch
    """
    from laconvnet.launch.status import show

    return show(folder, watch=watch, as_json=json)


def logs(
    folder: Graph,
    stage: Annotated[str, Arg("one of its stages", "STAGE")],
    *,
    rank: Annotated[int | None, Arg("only this process of the stage", "N")] = None,
    task: Annotated[int | None, Arg("only this task of an array, counted from 0", "I")] = None,
    follow: Annotated[bool, Arg("go on until the stage has ended")] = False,
    json: Annotated[bool, Arg("print one JSON object a line of them: file and line")] = False,
) -> int:
    """What a stage has written.

    The output of a stage's newest job: of its batch script and all its ranks, or of one rank; of an array, of all its
    tasks or of one.

    For example:
      laconvnet logs runs/refcoco train --rank 0 --follow
    """
    from laconvnet.launch import control

    return control.logs(folder, stage, rank=rank, follow=follow, task=task, as_json=json)


def cancel(
    folder: Graph,
    stage: Annotated[str | None, Arg("only this stage (default: all)", "STAGE")] = None,
    *,
    json: Json = False,
) -> int:
    """End a launched graph or one of its stages.

    End the jobs of a launched graph, or of one stage. What they have saved stays; the same launch goes on from there.

    For example:
      laconvnet cancel runs/refcoco train
    """
    from laconvnet.launch import control

    return control.cancel(folder, stage, as_json=json)
