"""What a kind of stage asks of a SLURM site: the keys of a cluster file's profiles, and of a stage's `site`.

Numbers and truth values may stand as texts: a stages file's scalars are not interpreted before `values` are put in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from laconvnet.launch.graph.faults import Faults, plain_line
from laconvnet.pipeline import yaml_files
from laconvnet.pipeline.yaml_files import KeyPath

# What is written by us alone: the same flag from the site's file would be given twice, or undo what a stage relies on.
OURS = (
    "array", "chdir", "comment", "cpus-per-task", "dependency", "error", "exclude", "gpus-per-node", "job-name",
    "kill-on-invalid-dep", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "partition", "requeue",
    "no-requeue", "signal", "time", "wrap",
)  # fmt: skip
_FLAG = re.compile(r"[a-z][a-z0-9-]*")
MEMORY = ("mem", "mem_per_cpu", "mem_per_gpu")  # sbatch takes one of them


def _as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value  # an account named 2024, mem: 0


def _scalar(value: Any) -> Any:
    """A number or truth value that is written as a text; anything else as it is."""
    try:
        found = yaml_files.value(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return found if isinstance(found, bool | int | float) else value


def _option(value: Any) -> Any:
    found = _scalar(value)
    return value if isinstance(found, float) else found


_SCALAR = BeforeValidator(_scalar)
Flag = Annotated[bool, _SCALAR, Field(strict=True, description="true or false")]
Whole = Annotated[int, _SCALAR, Field(strict=True, ge=0, description="a whole number of at least 0")]
Positive = Annotated[int, _SCALAR, Field(strict=True, gt=0, description="a whole number, more than 0")]
Number = Annotated[float, _SCALAR, Field(strict=True, ge=0, allow_inf_nan=False, description="a number of at least 0")]
Minutes = Annotated[float, _SCALAR, Field(strict=True, gt=0, allow_inf_nan=False, description="a number, more than 0")]
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
    dict[
        str,
        Annotated[Annotated[StrictStr, AfterValidator(plain_line)] | StrictInt | StrictBool, BeforeValidator(_option)],
    ],
    Field(description="a mapping of sbatch's long names to texts of one line, whole numbers or true"),
]
GpusBy = Annotated[Literal["gpus-per-node", "gres"], Field(description="gpus-per-node or gres")]


@dataclass(frozen=True)
class Profile:
    """Keys of a cluster file as they are for some stages; None: as at the top of the file."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    gpus_per_node: Whole | None = None
    gpu_type: Text | None = None
    gpus_by: GpusBy | None = None
    cpus_per_task: Positive | None = None
    mem: Size | None = None
    mem_per_cpu: Size | None = None
    mem_per_gpu: Size | None = None
    minutes: Minutes | None = None
    mail_user: Text | None = None
    mail_type: Text | None = None
    setup: Lines | None = None
    container: Text | None = None
    python: Text | None = None
    srun: Lines | None = None
    sbatch: Options | None = None


def check_options(asked: Profile, faults: Faults, at: KeyPath = (), where: str = "") -> None:
    """Note what is wrong with the keys of a profile beside each other, and with those under `sbatch`."""
    memory = [key for key in MEMORY if getattr(asked, key) is not None]
    if len(memory) > 1:
        faults.add(f"{where}{' and '.join(memory)} were given; expected one of them", (*at, memory[1]))
    options: Mapping[str, object] = asked.sbatch or {}
    known = {key.name for key in fields(Profile)}
    for key in options:
        if not _FLAG.fullmatch(key):
            message = f"sbatch: key {key!r}: expected a long name of sbatch's without the dashes"
        elif key in OURS:
            message = f"sbatch: key {key!r} is set by laconvnet itself; leave it out"
        elif key.replace("-", "_") in known:
            message = f"sbatch: key {key!r}: write {key.replace('-', '_')} beside sbatch instead"
        else:
            continue
        faults.add(where + message, (*at, "sbatch", key))
