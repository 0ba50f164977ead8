"""What the suite's tests submit: stages files, a site's file, and how they wait for what SLURM makes of them."""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laconvnet.files import find_object
from laconvnet.launch import cli, job
from laconvnet.launch.executor import launch
from laconvnet.launch.graph.stages import Stage, plan
from laconvnet.launch.status import status
from tests.slurm.cluster import Cluster

LINE = argparse.ArgumentParser(add_help=False)  # takes every command line: those of program.py
LINE.set_defaults(takes_keys=True)
PATIENCE_SECONDS = 400  # machines are shared: what counts is the order of things
SITE = """
partition: main
account: lab
gpus_per_node: 4
cpus_per_task: 1
minutes: 30
signal_seconds: 30
retries: 2
"""


class Work:
    """A folder of one test, from which stages are submitted."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.file, self.out = folder / "stages.yaml", folder / "runs"
        self.entry = "slurm_entry:main"

    def stages(self, text: str) -> dict[str, Stage]:
        """Write the stages file from the text under `stages:`; the stages by name."""
        body = textwrap.indent(textwrap.dedent(text).strip("\n"), "  ")
        self.file.write_text(f"name: small\nfolder: runs\nstages:\n{body}\n")
        return {stage.name: stage for stage in plan(self.file)}

    def submit(self, site: str = SITE, **options: Any) -> int:
        (self.folder / "site.yaml").write_text(site)
        line = cli.parser() if self.entry == job.ENTRY else LINE
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("laconvnet.launch.job.ENTRY", self.entry)
            return launch(self.file, line, cluster=str(self.folder / "site.yaml"), **options)

    def rows(self) -> dict[str, dict[str, Any]]:
        """`laconvnet status`, by stage."""
        return {row["stage"]: row for row in status(self.out)}

    def job(self, stage: Stage) -> str:
        record = find_object(stage.folder / "job.json")
        assert record is not None
        return str(record["id"])

    def queue(self) -> list[str]:
        """The jobs of this folder that SLURM still has something to do with."""
        output = self.cluster.call("squeue", "--noheader", "--states=all", "--format=%i|%T|%k").splitlines()
        jobs = [line.split("|", 2) for line in output]
        here = [(job, state) for job, state, comment in jobs if comment.startswith(str(self.out))]
        return [job for job, state in here if state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")]

    def accounted(self, *jobs: str) -> list[str]:
        """How these jobs have ended by SLURM's own accounts, which are kept a little later than things happen."""

        def states() -> dict[str, str]:
            output = self.cluster.call("sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State")
            return dict(line.split("|") for line in output.splitlines())

        under_way = {None, "PENDING", "RUNNING", "COMPLETING", "REQUEUED"}
        self.wait(lambda: not {states().get(job) for job in jobs} & under_way, f"no account of the end of {jobs}")
        found = states()
        return [found[job] for job in jobs]

    def empty(self) -> None:
        """Wait until SLURM has nothing more to do with this folder: the batch scripts have had their last word."""
        self.wait(lambda: not self.queue(), "the queue does not become empty")

    def leave(self) -> None:
        """End what is still there."""
        if jobs := self.queue():
            self.cluster.call("scancel", *jobs)
            self.empty()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                logs = [f"--- {log}\n{log.read_text()[-2000:]}" for log in sorted(self.out.glob("*/jobs/*.log"))]
                raise TimeoutError("\n".join([what, self.cluster.call("squeue"), str(self.rows()), *logs]))
            time.sleep(0.3)

    def ended(self, *stages: Stage) -> dict[str, tuple[str, str | None]]:
        """State and reason of each stage when none of them runs or waits any more."""
        names = [stage.name for stage in stages]
        self.wait(lambda: not {self.rows()[n]["state"] for n in names} & {"running", "waiting"}, f"{names} did not end")
        rows = self.rows()
        return {name: (rows[name]["state"], rows[name]["reason"]) for name in names}


Limited = tuple[Work, Stage, Stage, Stage]  # where they were submitted, and the stages
