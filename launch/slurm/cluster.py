"""What a SLURM site is like: one YAML file a cluster, read into `Cluster`.

`configs/cluster/example.yaml` shows every key. Everything that differs between two sites stands there and nowhere else;
what a stage needs (processes, GPUs, time) stands in the stages file.

    partition: gpu                     # the top of the file: what all stages ask
    account: vision
    gpus_per_node: 8
    profiles:
      cpu: {partition: cpu, mem: 32G}  # ... but for those without GPUs,
      gpu: {constraint: a100}          # those with GPUs,
      long: {qos: long}                # and those that name it: `profile: long`
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from laconvnet.launch.graph.faults import Faults
from laconvnet.launch.profile import (
    MEMORY,
    Flag,
    GpusBy,
    Lines,
    Minutes,
    Number,
    Options,
    Positive,
    Profile,
    Whole,
    check_options,
)
from laconvnet.pipeline import yaml_files

if TYPE_CHECKING:
    from laconvnet.launch.graph.stages import Stage

# What the top of a file says of nodes with GPUs, and a stage that has a profile and no GPUs does not take from there.
OF_GPU_NODES = ("constraint", *MEMORY)
OPTIONS_OF_GPU_NODES = ("exclusive", "gres")
Profiles = Annotated[
    dict[str, Any], Field(description="a mapping of cpu, gpu and names of your own to keys such as partition")
]


@dataclass(frozen=True)
class Cluster(Profile):
    """Facts of one site.

    Args:
        partition: Partition of stages that name none; none here either: the site's default.
        account: Account that is charged.
        qos: Quality of service.
        constraint: Features that the nodes must have, such as "a100&ib".
        gpus_per_node: GPUs of a node: the ranks of a stage with GPUs are spread over as few nodes as this allows.
        gpu_type: The GPUs' name in GRES, such as a100, where the site wants it named.
        gpus_by: How GPUs are asked for: gpus-per-node (`--gpus-per-node=a100:8`) or gres (`--gres=gpu:a100:8`).
        cpus_per_task: Cores of each process of a stage that says no `threads`.
        mem: Memory a node, such as 64G; 0 is all of it. A stage that takes some of a node's GPUs asks for as much of
            it, of 0 for the site's default.
        mem_per_cpu: Memory a core, in place of `mem`.
        mem_per_gpu: Memory a GPU, in place of `mem`.
        minutes: Time limit of stages that name none.
        mail_user: Who gets SLURM's mails.
        mail_type: About what, such as FAIL,END.
        setup: Lines of bash before anything runs; the first that fails ends the job.
        container: Words before the interpreter, such as "apptainer exec --nv /images/torch.sif".
        python: The interpreter on the nodes; none: the one that submits.
        srun: Further arguments of srun.
        sbatch: Further sbatch parameters by their long names, such as {"reservation": "lab", "exclusive": true}.
            A stage that takes some of a node's GPUs is not exclusive.
        signal_seconds: So long before the time limit the ranks are told to save and leave.
        hang_minutes: A job whose log, output and checkpoints have stood still for so long is ended; 0: never.
        at_once: So many tasks of an array run at the same time where the stage says nothing; 0: no limit.
        max_array: So many tasks an array may have, where SLURM's own limit (MaxArraySize) is not to be had or higher.
        max_timeouts: So often a stage may reach its time limit and go on; being preempted is not counted.
        retries: So often a stage may be started again after a failure that is not its own fault.
        exclude: Whether a retry keeps off the node that was at fault, where one is known and enough are left.
        profiles: Keys of this file, by profile, as they are for some stages: `cpu` for those without GPUs, `gpu` for
            those with GPUs, another name for those that say `profile: NAME`.
    """

    gpus_per_node: Whole = 0
    gpus_by: GpusBy = "gpus-per-node"
    cpus_per_task: Positive = 4
    minutes: Minutes = 24 * 60.0
    setup: Lines = ()
    srun: Lines = ()
    sbatch: Options = field(default_factory=dict)
    signal_seconds: Positive = 120
    hang_minutes: Number = 60.0
    at_once: Whole = 0
    max_array: Positive | None = None
    max_timeouts: Whole = 100
    retries: Whole = 3
    exclude: Flag = True
    profiles: Profiles = field(default_factory=dict)

    def fitted(self, stage: Stage) -> Cluster:
        """The site as this stage is to see it: the keys of its profile, then its own, over those at the top.

        A stage without GPUs that has a profile takes from the top nothing that is said of nodes with GPUs
        (`OF_GPU_NODES`). Raises ValueError for a profile that the file does not have.
        """
        name = stage.profile or ("gpu" if stage.gpus else "cpu")
        if stage.profile and name not in self.profiles:
            have = ", ".join(self.profiles) or "none"
            raise ValueError(f"profile: got {name!r}, expected one of the cluster's file, which has {have}")
        profiled = name in self.profiles
        fitted = self._without_gpus() if profiled and not stage.gpus else self
        fitted = fitted._over(self.profiles[name]) if profiled else fitted
        return fitted._over(stage.site) if stage.site else fitted

    @property
    def with_gpus(self) -> Cluster:
        """The site as a stage with GPUs sees it that says nothing more."""
        return self._over(self.profiles["gpu"]) if "gpu" in self.profiles else self

    def _without_gpus(self) -> Cluster:
        sbatch = {key: value for key, value in self.sbatch.items() if key not in OPTIONS_OF_GPU_NODES}
        return replace(self, sbatch=sbatch, **dict.fromkeys(OF_GPU_NODES))  # type: ignore[arg-type]

    def _over(self, profile: Profile) -> Cluster:
        given = {one.name: getattr(profile, one.name) for one in fields(Profile)}
        given = {key: value for key, value in given.items() if value is not None}
        if not given.keys().isdisjoint(MEMORY):
            given = {**dict.fromkeys(MEMORY), **given}
        if "sbatch" in given:
            given["sbatch"] = {**self.sbatch, **given["sbatch"]}
        return replace(self, **given)


def read(file: str | Path) -> Cluster:
    """The site of a YAML file; a key without a value counts as left out.

    Raises ConfigError with one line for each thing wrong with it.
    """
    document = yaml_files.read(Path(file), "--cluster expects local, or a file such as configs/cluster/example.yaml")
    faults = Faults(document)
    site = faults.check(Cluster, _without_empty(document.value))
    check_options(site, faults)
    profiles = {}
    for name, raw in site.profiles.items():
        at, where = ("profiles", name), f"profiles: {name}: "
        profiles[name] = faults.check(Profile, _without_empty(raw), at, where)
        check_options(profiles[name], faults, at, where)
    faults.end()
    return replace(site, profiles=profiles)


def _without_empty(raw: Any) -> Any:
    return {key: value for key, value in raw.items() if value is not None} if isinstance(raw, dict) else raw
