"""What SLURM says: the jobs in its queue, how ended ones ended, and what its partitions offer."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from laconvnet.pipeline.errors import ConfigError

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
_SECONDS = 60


class SlurmError(ConfigError):
    """A SLURM command failed; the message is what it said."""


@dataclass(frozen=True)
class Queued:
    """A job in the queue; each task of an array is one, as 12_3."""

    id: str
    state: str  # PENDING, RUNNING, COMPLETING, ...
    reason: str  # why it waits
    comment: str  # for our jobs the stage's folder, or that of all its tasks for an array

    @property
    def array(self) -> str:
        """The id that sbatch gave, the same for all tasks of an array."""
        return self.id.partition("_")[0]

    @property
    def folder(self) -> str:
        """Of the stage, or of the task of an array."""
        return "/".join(filter(None, (self.comment, self.id.partition("_")[2])))


@dataclass(frozen=True)
class Partition:
    """What one partition offers; `gpus` maps the GPUs' type ("" where it has none) to how many a node has at most."""

    nodes: int
    cores: int
    minutes: float
    gpus: dict[str, int]


def missing_commands() -> list[str]:
    """Commands of SLURM's that are not on PATH."""
    return [name for name in COMMANDS if shutil.which(name) is None]


def run(command: Sequence[str], text: str | None = None) -> str:
    """Standard output of a SLURM command. Raises SlurmError naming it and what it said."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False, errors="replace"
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]}: no such command here; expected a machine of the cluster") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]}: no answer in {_SECONDS} s; is the controller up?") from None
    if done.returncode:
        lines = [
            re.sub(rf"^{command[0]}: (error|fatal): ", "", line) for line in done.stderr.splitlines() if line.strip()
        ]
        raise SlurmError(f"{command[0]}: {' '.join(lines[-1].split()) if lines else f'exit code {done.returncode}'}")
    return done.stdout


def queued() -> list[Queued]:
    """This user's jobs that have not ended. A job that is being cleaned up after it ended is not in it."""
    output = run(["squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r|%k"])
    found = []
    for line in output.splitlines():
        job, state, reason, comment = line.split("|", 3)
        if not state.startswith(ENDED):
            found.append(Queued(job.strip(), state, reason, comment.strip()))
    return found


def by_folder() -> dict[str, Queued]:
    """The folders of stages and of tasks of arrays that have a job in the queue."""
    return {job.folder: job for job in queued()}


def ended(jobs: Iterable[str]) -> dict[str, str]:
    """Job id -> state in SLURM's books, {} where it keeps none; only the first word: CANCELLED, not who did it.

    An array is asked for as a whole, by the id before the underscore.
    """
    asked = ",".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    if not asked or shutil.which("sacct") is None:
        return {}
    try:
        output = run(["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={asked}"])
    except SlurmError:  # accounting is optional on a site
        return {}
    rows = (line.split("|", 1) for line in output.splitlines())
    return {one: state.split()[0] for job, state in rows if state.strip() for one in _tasks(job)}


def _tasks(job: str) -> list[str]:
    """The jobs of an id such as 12_[3,5-7%8], which stands for tasks of an array that never started."""
    array, bracket, rest = job.partition("_[")
    if not bracket:
        return [job]
    found = []
    for part in rest.rstrip("]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        found += [f"{array}_{task}" for task in range(int(first), int(last or first) + 1)]
    return found


def partitions() -> dict[str, Partition]:
    """Name -> what it offers; the site's default one is found under "" too."""
    found: dict[str, Partition] = {}
    for line in run(["sinfo", "--noheader", "--format=%P|%D|%c|%l|%G"]).splitlines():
        name, nodes, cores, limit, gres = line.split("|", 4)
        one = Partition(int(nodes), int(cores.rstrip("+")), _minutes(limit), _gpus(gres))
        for key in {name.rstrip("*"), ""} if name.endswith("*") else {name}:
            found[key] = _joined(found[key], one) if key in found else one
    return found


def most_tasks() -> int | None:
    """So many tasks an array may have (MaxArraySize), None where SLURM does not say so."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", run(["scontrol", "show", "config"]), re.MULTILINE)
    except SlurmError:
        return None
    return int(found[1]) if found else None


def most_jobs(account: str | None, qos: str | None) -> int | None:
    """So many jobs this user may have in the queue, each task of an array being one (MaxSubmitJobs).

    By the books of the account and the QOS, the smaller; None where SLURM keeps none or sets no limit.
    """
    if shutil.which("sacctmgr") is None:
        return None
    of_user = ["association", f"user={getpass.getuser()}", *([f"account={account}"] if account else [])]
    asked = [(of_user, "MaxSubmitJobs")] + ([(["qos", qos], "MaxSubmitJobsPerUser")] if qos else [])
    limits: list[int] = []
    for what, field in asked:
        try:
            output = run(["sacctmgr", "--noheader", "--parsable2", "show", *what, f"format={field}"])
        except SlurmError:  # accounting is optional on a site
            return None
        # Of several associations the widest: which of them a job would be under is not known here.
        found = [int(line) if line.strip().isdigit() else None for line in output.splitlines()]
        limits += [max(one for one in found if one is not None)] if found and None not in found else []
    return min(limits, default=None)


def _joined(one: Partition, other: Partition) -> Partition:
    """A partition of unlike nodes comes as several lines."""
    gpus = {kind: max(one.gpus.get(kind, 0), other.gpus.get(kind, 0)) for kind in one.gpus | other.gpus}
    return Partition(one.nodes + other.nodes, max(one.cores, other.cores), max(one.minutes, other.minutes), gpus)


def _gpus(gres: str) -> dict[str, int]:
    """GPUs of a GRES text such as `gpu:a100:8(S:0-1),nvme:1`."""
    found: dict[str, int] = {}
    for kind, count in re.findall(r"(?:^|,)gpu(?::([^:,(]+))??(?::(\d+))(?=[(,]|$)", gres):
        found[kind] = found.get(kind, 0) + int(count)
    return found


def _minutes(limit: str) -> float:
    """A time limit as SLURM prints it: [days-]hours:minutes:seconds, minutes:seconds, infinite."""
    days, _, rest = limit.strip().rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in parts):
        return float("inf")
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return int(days or 0) * 24 * 60.0 + seconds / 60
