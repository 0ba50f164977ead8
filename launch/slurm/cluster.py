"""What a SLURM site is like: one YAML file a cluster, read into `Cluster`.

`configs/cluster/example.yaml` shows every key. Everything that differs between two sites stands there and nowhere else;
what a stage needs (processes, GPUs, time) stands in the stages file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from laconvnet.launch.graph.faults import Faults, plain_line
from laconvnet.pipeline import yaml_files

# What is written by us alone: the same flag from the site's file would be given twice, or undo what a stage relies on.
OURS = (
    "array", "chdir", "comment", "cpus-per-task", "dependency", "error", "gpus-per-node", "job-name",
    "kill-on-invalid-dep", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "partition", "requeue",
    "no-requeue", "signal", "time", "wrap",
)  # fmt: skip
_FLAG = re.compile(r"[a-z][a-z0-9-]*")


def _as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value  # an account named 2024, mem: 0


Flag = Annotated[bool, Field(strict=True, description="true or false")]
Whole = Annotated[int, Field(strict=True, ge=0, description="a whole number of at least 0")]
Positive = Annotated[int, Field(strict=True, gt=0, description="a whole number, more than 0")]
Number = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False, description="a number of at least 0")]
Minutes = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False, description="a number, more than 0")]
Line = Annotated[str, Field(strict=True, description="a text of one line"), AfterValidator(plain_line)]
Text = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(strict=True, pattern=r"\S", description="a text of one line"),
    AfterValidator(plain_line),
]
Size = Annotated[
    str, BeforeValidator(_as_text), Field(strict=True, pattern="^[0-9]+[KMGT]?$", description="a size such as 64G")
]
Lines = Annotated[tuple[Line, ...], Field(description="a list of lines")]
Options = Annotated[
    dict[str, Annotated[StrictStr, AfterValidator(plain_line)] | StrictInt | StrictBool],
    Field(description="a mapping of sbatch's long names to texts of one line, whole numbers or true"),
]


@dataclass(frozen=True)
class Cluster:
    """Facts of one site.

    Args:
        partition: Partition of stages that name none; none here either: the site's default.
        account: Account that is charged.
        qos: Quality of service.
        constraint: Features that the nodes must have, such as "a100&ib".
        gpus_per_node: GPUs of a node: the ranks of a stage with GPUs are spread over as few nodes as this allows.
        gpu_type: The GPUs' name in GRES, such as a100, where the site wants it named.
        cpus_per_task: Cores of each process of a stage that says no `threads`.
        mem: Memory a node, such as 64G; 0 is all of it.
        minutes: Time limit of stages that name none.
        signal_seconds: So long before the time limit the ranks are told to save and leave.
        hang_minutes: A job whose log, output and checkpoints have stood still for so long is ended; 0: never.
        at_once: So many tasks of an array run at the same time where the stage says nothing; 0: no limit.
        max_timeouts: So often a stage may reach its time limit and go on; being preempted is not counted.
        retries: So often a stage may be started again after a failure that is not its own fault.
        exclude: Whether a retry keeps off the node that was at fault, where one is known and enough are left.
        mail_user: Who gets SLURM's mails.
        mail_type: About what, such as FAIL,END.
        setup: Lines of bash before anything runs; the first that fails ends the job.
        container: Words before the interpreter, such as "apptainer exec --nv /images/torch.sif".
        python: The interpreter on the nodes; none: the one that submits.
        srun: Further arguments of srun.
        sbatch: Further sbatch parameters by their long names, such as {"exclusive": true, "reservation": "lab"}.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    gpus_per_node: Whole = 0
    gpu_type: Text | None = None
    cpus_per_task: Positive = 4
    mem: Size | None = None
    minutes: Minutes = 24 * 60.0
    signal_seconds: Positive = 120
    hang_minutes: Number = 60.0
    at_once: Whole = 0
    max_timeouts: Whole = 100
    retries: Whole = 3
    exclude: Flag = True
    mail_user: Text | None = None
    mail_type: Text | None = None
    setup: Lines = ()
    container: Text | None = None
    python: Text | None = None
    srun: Lines = ()
    sbatch: Options = field(default_factory=dict)


def read(file: str | Path) -> Cluster:
    """The site of a YAML file; a key without a value counts as left out.

    Raises ConfigError with one line for each thing wrong with it.
    """
    document = yaml_files.read(Path(file), "--cluster expects local, or a file such as configs/cluster/example.yaml")
    faults, raw = Faults(document), document.value
    if isinstance(raw, dict):
        raw = {key: value for key, value in raw.items() if value is not None}
    site = faults.check(Cluster, raw)
    known = [field.name for field in fields(Cluster)]
    for key in site.sbatch:
        if not _FLAG.fullmatch(key):
            message = f"sbatch: key {key!r}: expected a long name of sbatch's without the dashes"
        elif key in OURS:
            message = f"sbatch: key {key!r} is set by laconvnet itself; leave it out"
        elif key.replace("-", "_") in known:
            message = f"sbatch: key {key!r}: write {key.replace('-', '_')} beside sbatch instead"
        else:
            continue
        faults.add(message, ("sbatch", key))
    faults.end()
    return site
