"""What a SLURM site is like: one YAML file a cluster, read into `Cluster`.

`configs/cluster/example.yaml` shows every key. Everything that differs between two sites stands there and nowhere else;
what a stage needs (processes, GPUs, time) stands in the stages file.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from laconvnet.pipeline.errors import ConfigError

# What is written by us alone: the same flag from the site's file would be given twice, or undo what a stage relies on.
OURS = (
    "array", "chdir", "comment", "cpus-per-task", "dependency", "error", "gpus-per-node", "job-name",
    "kill-on-invalid-dep", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "partition", "requeue",
    "no-requeue", "signal", "time", "wrap",
)  # fmt: skip
_MEMORY = re.compile(r"\d+[KMGT]?")
_FLAG = re.compile(r"[a-z][a-z0-9-]*")


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

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus_per_node: int = 0
    gpu_type: str | None = None
    cpus_per_task: int = 4
    mem: str | None = None
    minutes: float = 24 * 60.0
    signal_seconds: int = 120
    hang_minutes: float = 60.0
    at_once: int = 0
    max_timeouts: int = 100
    retries: int = 3
    exclude: bool = True
    mail_user: str | None = None
    mail_type: str | None = None
    setup: tuple[str, ...] = ()
    container: str | None = None
    python: str | None = None
    srun: tuple[str, ...] = ()
    sbatch: tuple[tuple[str, str | int | bool], ...] = ()


def read(file: str | Path) -> Cluster:
    """The site of a YAML file. Raises ConfigError with one line for each thing wrong with it."""
    file = Path(file)
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cluster: {file}: cannot be read ({error.strerror}); expected local, or a file such as "
            "configs/cluster/example.yaml"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    known = {field.name: field for field in fields(Cluster)}
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: got {raw!r}, expected a mapping with some of the keys {', '.join(known)}")
    problems = [
        f"{file}: key {key!r} is unknown; expected one of {', '.join(known)}" for key in raw if key not in known
    ]
    values = {}
    for name, field in known.items():
        assert field.default is not MISSING
        if raw.get(name) is None:
            continue
        try:
            values[name] = _value(raw[name], name, str(field.type))
        except ValueError as error:
            problems.append(f"{file}: {name}: got {raw[name]!r}, expected {error}")
    for name in ("cpus_per_task", "minutes", "signal_seconds"):
        if name in values and values[name] <= 0:
            problems.append(f"{file}: {name}: got {raw[name]!r}, expected more than 0")
    if "mem" in values and not _MEMORY.fullmatch(values["mem"]):
        problems.append(f"{file}: mem: got {raw['mem']!r}, expected a size such as 64G")
    for key, _ in values.get("sbatch", ()):
        if not _FLAG.fullmatch(key):
            problems.append(f"{file}: sbatch: got key {key!r}, expected a long name of sbatch's without the dashes")
        elif key in OURS:
            problems.append(f"{file}: sbatch: key {key!r} is set by laconvnet itself; leave it out")
        elif key.replace("-", "_") in known:
            problems.append(f"{file}: sbatch: key {key!r}: write {key.replace('-', '_')} beside sbatch instead")
    if problems:
        raise ConfigError("\n".join(problems))
    return Cluster(**values)


def _value(value: Any, name: str, kind: str) -> Any:
    """The value as the field's type; ValueError says what was expected."""
    if kind == "bool":
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if kind in ("int", "float"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (kind == "float" and isinstance(value, float))) or not 0 <= value < float("inf"):
            raise ValueError("a whole number of at least 0" if kind == "int" else "a number of at least 0")
        return value
    if kind == "tuple[str, ...]":
        if not isinstance(value, list) or not all(isinstance(part, str) and "\n" not in part for part in value):
            raise ValueError("a list of lines")
        return tuple(value)
    if name == "sbatch":
        if not isinstance(value, dict) or not all(isinstance(part, str | int) for part in value.values()):
            raise ValueError("a mapping of sbatch's long names to texts, whole numbers or true")
        return tuple((str(key), part) for key, part in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # an account named 2024, mem: 0
    if not isinstance(value, str) or not value.strip() or "\n" in value:
        raise ValueError("a text of one line")
    return value
