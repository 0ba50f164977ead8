"""What a run, a stage and a launch keep in their folders: every file name stands here, and nowhere else.

    LAUNCH/                     of `laconvnet launch`
      graph.json                the stages, resolved, and which of them were requested
      launch.lock               held while the launch goes on, and names it
      replaced/                 folders of stages that were started from nothing again
      code-HASH/                the code that jobs on a cluster run
      STAGE-IDENTITY/           a stage; of a training stage it is the folder of the run as well
        DONE.json               it has succeeded
        FAILED.json             why it failed: the rank, its reason, the last lines of its log
        job.json                its newest job
        starts.jsonl            a line for each start and end of its jobs
        restarts.jsonl          a line for each time that supervisors started all ranks again
        jobs/                   logs, submissions and marks of the ranks, see the functions below
        array-N/I/              what a stage keeps, for task I of the N of its array
    RUN/                        of `laconvnet train`
      config.yaml               the resolved configuration
      environment.json          where it ran, with which versions
      log.jsonl                 a line each `log.every` steps
      trackers.json             how each tracker finds its run again, and its url
      tensorboard/ wandb/ mlruns/   what a tracker keeps here
      validations.jsonl         a line each validation: score, the best so far, whether the run ends with it
      owner.json                the process that trains here, while it does
      checkpoints/step-S/       state.pt, vocabulary.json, and COMMIT: what these two must be, of which run they are
      checkpoints/damaged-*/    a checkpoint that a start has found damaged and set aside
      validations/step-S/       scores.json, as `laconvnet eval` writes it, and examples.html
      incidents/step-S/         of a bad step: rank-R.json, and state/, which is a checkpoint
      profile/                  rank-R.json: the trace of `log.profile`
      eval/                     results, and beside each its .answers.jsonl and .explained.jsonl
      report.html               the report, where --out names no other path

Paths are made, never looked at. Nothing here knows torch.
"""

from __future__ import annotations

import re
from pathlib import Path

# A launch
GRAPH, LOCK, REPLACED, REPORT = "graph.json", "launch.lock", "replaced", "report.html"

# A stage, or one task of its array
DONE, FAILED, JOB, STARTS = "DONE.json", "FAILED.json", "job.json", "starts.jsonl"
RESTARTS = "restarts.jsonl"
ENDS = (DONE, FAILED)  # how a job can end
JOBS = "jobs"
SUBMISSION = "submission.json"  # in `jobs`: what the batch script must know
_ARRAY = re.compile(r"array-(\d+)")

# A run
CONFIG, ENVIRONMENT, LOG, OWNER = "config.yaml", "environment.json", "log.jsonl", "owner.json"
VALIDATIONS, TRACKERS = "validations.jsonl", "trackers.json"
CHECKPOINTS, INCIDENTS, PROFILE, EVALUATIONS = "checkpoints", "incidents", "profile", "eval"
STATE, VOCABULARY, COMMIT = "state.pt", "vocabulary.json", "COMMIT"  # of a checkpoint; the marker is written last
INCIDENT_STATE = "state"  # the checkpoint of an incident
VALIDATED, SCORES, DRAWN = "validations", "scores.json", "examples.html"  # a folder, and of each validation in it
LAST = "last"  # in a run's checkpoints no folder, but how its last checkpoint may be named
ANSWERS, EXPLAINED = ".answers.jsonl", ".explained.jsonl"  # the endings of what lies beside a result
_STEP = re.compile(r"step-(\d+)")


def step_folder(step: int) -> str:
    """The name of a step's folder, in `checkpoints` and in `incidents`."""
    return f"step-{step:08d}"


def validation_folder(run: Path, step: int) -> Path:
    """Where a validation leaves its scores and drawings."""
    return run / VALIDATED / step_folder(step)


def step_of(folder: Path) -> int:
    """The step that a published checkpoint was saved after, by its folder's name."""
    return int(folder.name.removeprefix("step-"))


def is_last(place: Path) -> bool:
    """Whether this names a run's last checkpoint, whichever that is."""
    return place.parent.name == CHECKPOINTS and place.name == LAST


def is_step(name: str) -> bool:
    """Whether this is the name of a step's folder."""
    return bool(_STEP.fullmatch(name))


def rank_record(folder: Path, rank: int) -> Path:
    """The file that one rank writes of an incident or a profile."""
    return folder / f"rank-{rank}.json"


def task_folder(stage: Path, tasks: int, task: int) -> Path:
    """The folder in which a task of an array keeps what a stage keeps in its own."""
    return stage / f"array-{tasks}" / str(task)


def array_of(folder: Path) -> tuple[Path, int] | None:
    """The stage's folder and how many tasks its array has, where this is the folder of one of them."""
    match = _ARRAY.fullmatch(folder.parent.name)
    return (folder.parents[1], int(match[1])) if match and folder.name.isdigit() else None


# Of a stage's jobs, by the job's id. In patterns of SLURM's and of bash `job` is what they fill in.


def rank_log(folder: Path, job: str, rank: int | str, kind: str = "err") -> Path:
    """Standard error (err) or output (out) of a rank; submitit gives it its name."""
    return folder / JOBS / f"{job}_{rank}_log.{kind}"


def batch_log(folder: Path, job: str) -> Path:
    """The batch script's own output and srun's messages."""
    return folder / JOBS / f"{job}_batch.log"


def controller_log(folder: Path, job: str) -> Path:
    """The output of the process that starts and watches the ranks of a job on this machine."""
    return folder / JOBS / f"{job}_controller.log"


def ok_marker(folder: Path, job: str, rank: int | str) -> Path:
    """The file that says that the command of this rank of this job succeeded."""
    return folder / JOBS / f"{job}_{rank}.ok"


def stopped_marker(folder: Path, job: str, rank: int | str) -> Path:
    """The file that says that this rank was told to stop and has done so."""
    return folder / JOBS / f"{job}_{rank}.stopped"


def signal_marker(folder: Path, job: str, rank: int | str) -> Path:
    """The file that says that a signal of SLURM's has reached this rank of this job."""
    return folder / JOBS / f"{job}_{rank}.told"


def fence_file(folder: Path, job: str) -> Path:
    """The file that names the newest start of a job."""
    return folder / JOBS / f"{job}.start"


def link_file(folder: Path, job: str) -> Path:
    """The secret by which the supervisors of a start of the job know each other."""
    return folder / JOBS / f"{job}.link"


def exclude_file(folder: Path, job: str) -> Path:
    """The nodes that the job is to keep off from now on."""
    return folder / JOBS / f"{job}.exclude"
