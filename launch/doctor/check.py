"""A finding of the doctor's, and what it was asked to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from laconvnet.launch.slurm.cluster import Cluster
    from laconvnet.pipeline.config import TrainConfig

# error: a run that needs it cannot work; warning: it works, with less or at a risk; not there: it is optional.
State = Literal["ok", "warning", "error", "not there"]
GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One row: what was found, and what it means or what to do about it."""

    name: str
    state: State
    found: str
    meaning: str = ""


@dataclass(frozen=True)
class PlannedRun:
    """What a run would be given.

    ``folder`` is where runs are written, ``processes`` its ranks, ``config`` its data and batch, ``cluster`` the site
    of ``site``, the file that describes it.
    """

    folder: Path = field(default_factory=lambda: Path("runs").absolute())
    processes: int = 1
    config: TrainConfig | None = None
    cluster: Cluster | None = None
    site: Path | None = None

    @property
    def local(self) -> int:
        """Ranks of one node: as many as it has GPUs, where a cluster's file tells."""
        on_node = self.cluster.with_gpus.gpus_per_node if self.cluster else 0
        return min(self.processes, on_node or self.processes)


Probe = Callable[[PlannedRun], Iterator[Check]]


def checked(name: str, probe: Probe, planned_run: PlannedRun) -> list[Check]:
    """The rows of one probe; whatever stops it is the last of them."""
    rows = []
    try:
        for check in probe(planned_run):
            rows.append(check)
    except Exception as error:  # whatever a system or a package raises is the finding
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        rows.append(Check(name, "error", message, "this check could not be made"))
    return rows
