"""What lies in the folders that laconvnet writes, file by file; tests hold it against folders that were written."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from laconvnet.pipeline.runs import layout


class File(NamedTuple):
    """A file by its place in a folder; `*` stands for what differs. ``when`` is empty where it is always there."""

    place: str
    what: str
    when: str = ""


GRAPH = (
    File(layout.GRAPH, "the stages as the launch resolved them, and which it took"),
    File(layout.LOCK, "who launches here now: process, host, time; held by flock"),
    File(layout.REPORT, "the report", "the graph has a report stage that writes it here"),
    File("report.txt", "the table of the report as text", "as report.html"),
    File("code-*/", "the code that the jobs run, by its fingerprint", "on SLURM"),
    File(f"{layout.REPLACED}/*", "stage folders that `--force` set aside", "after `--force`"),
    File("*-*/", "the folder of a stage: its name and its fingerprint"),
)

STAGE = (
    File(
        layout.DONE,
        "the stage succeeded: stage, fingerprint, job, host, command, times, processes, version of code",
        "at the end",
    ),
    File(layout.FAILED, "the first rank that failed: rank, reason, log, last lines", "after a failure"),
    File(layout.JOB, "the newest job: id, host or cluster, when it was started or submitted"),
    File(layout.STARTS, "a line when a job starts and one when it ends: outcome, reason, nodes"),
    File(
        layout.RESTARTS,
        "a line each time all ranks were started again: rank, node, reason, steps; the last one tells the goodput",
        "lost ranks, with `restarts`",
    ),
    File("jobs/*_*_log.out", "standard output of a rank"),
    File("jobs/*_*_log.err", "standard error of a rank"),
    File("jobs/*_*.ok", "this rank's command succeeded"),
    File("jobs/*_*.stopped", "this rank was told to stop, and has", "after an interruption"),
    File("jobs/*_*.told", "a signal of SLURM's has reached this rank", "on SLURM, after a signal"),
    File("jobs/*.start", "the newest start of a job: an older one publishes nothing", "on SLURM"),
    File("jobs/*.link", "the secret by which the supervisors of the ranks know each other", "while the job runs"),
    File("jobs/*.exclude", "nodes to keep off", "on SLURM, after a bad node"),
    File("jobs/*_batch.log", "what the batch script and srun wrote", "on SLURM"),
    File(f"{layout.JOBS}/{layout.SUBMISSION}", "what was submitted: limits, retries, code", "on SLURM"),
    File("jobs/config-*-*", "the configuration that was submitted, bases included", "on SLURM"),
    File("jobs/*_submission.sh", "the batch script as it was submitted", "on SLURM"),
    File(
        "jobs/.submission_file_*.sh", "submitit's: the same script, under the name that it was written by", "on SLURM"
    ),
    File("jobs/*_submitted.pkl", "submitit's: the command"),
    File("jobs/*_result.pkl", "submitit's: how the command of a rank ended"),
    File("jobs/*_controller.log", "what the local controller wrote", "on this machine"),
    File("array-*/*_submission.sh", "the batch script of an array", "on SLURM, stages with `array`"),
    File("array-*/*/", "the folder of an array task, with what a stage's folder has", "stages with `array`"),
)

RUN = (
    File(layout.CONFIG, "the resolved configuration of the first start, and where its data lies now"),
    File(
        layout.ENVIRONMENT,
        "Python, machine, host, versions of packages and code, LaConv's kernels, at the first start",
    ),
    File(
        layout.OWNER, "the process that trains here: host, process, job; its time is its heartbeat", "while it trains"
    ),
    File(layout.LOG, "a row every `log.every` steps: step, loss and its terms, gradient norm, rate, speed, memory"),
    File(
        layout.VALIDATIONS,
        "a line a validation: step, score, the best so far, all metrics, seconds, whether the run ends with it",
        "`validate.every`",
    ),
    File(f"{layout.VALIDATED}/step-*/{layout.SCORES}", "the scores, as `laconvnet eval` writes them", "as above"),
    File(
        f"{layout.VALIDATED}/step-*/{layout.DRAWN}", "examples with answer and truth", "as above, `validate.examples`"
    ),
    File(layout.TRACKERS, "how each tracker finds its run again, and its page", "`log.trackers`"),
    File("tensorboard/*", "the same curves for TensorBoard", "`log.trackers`"),
    File("wandb/**", "what `wandb sync` hands over, and wandb's own logs", "`log.trackers` with wandb"),
    File("mlruns/**", "MLflow's file store", "`log.trackers` with mlflow, no MLFLOW_TRACKING_URI"),
    File(
        f"{layout.CHECKPOINTS}/step-*/{layout.COMMIT}",
        "the marker: version, step, score and what it is by, seal of the configuration, fingerprint of the data, code, "
        "sizes and checksums of the files; written last",
    ),
    File(
        f"{layout.CHECKPOINTS}/step-*/{layout.STATE}",
        "weights, optimizer state, EMA, step, fingerprint of the data, loss scale",
    ),
    File(f"{layout.CHECKPOINTS}/step-*/{layout.VOCABULARY}", "words and answers by number"),
    File(f"{layout.CHECKPOINTS}/damaged-step-*/*", "a checkpoint that a start found damaged", "after such a start"),
    File(
        f"{layout.INCIDENTS}/step-*/rank-*.json",
        "what a rank fed to a bad step, and what came out",
        "after a step that was not finite",
    ),
    File(
        f"{layout.INCIDENTS}/step-*/{layout.INCIDENT_STATE}/*",
        "the state before that step, as a checkpoint has it",
        "as above; the first few",
    ),
    File(f"{layout.PROFILE}/rank-*.json", "a trace of torch's profiler, for Chrome or Perfetto", "`log.profile`"),
    File(f"{layout.EVALUATIONS}/*.json", "scores of a split: `<set>-<split>.json`", "`laconvnet eval` without `--out`"),
    File(
        f"{layout.EVALUATIONS}/*{layout.ANSWERS}",
        "the answers behind them, one a line, with truth and verdict",
        "as above",
    ),
    File(
        f"{layout.EVALUATIONS}/*{layout.EXPLAINED}",
        "of the examples that the report shows where each word weighs how much, one a line",
        "`laconvnet eval --explain`",
    ),
)

SET = (
    File(
        "manifest.parquet",
        "a row a sample: key, size, splits, place and checksum of each member; in its footer the set's facts "
        "and the checksums of its files; written last",
    ),
    File("examples.parquet", "a row an example: sample, kind, split, region, text, answer, box, mask or not"),
    File("manifest.arrow", "the same as manifest.parquet, for processes to map"),
    File("examples.arrow", "the same as examples.parquet, for processes to map"),
    File(
        "counts.arrow",
        "what was counted of the texts of each split: tokens, answers, texts without a letter or digit",
        "unless it were larger than 1 GiB",
    ),
    File(
        "pictures.arrow",
        "a row an image that the annotations name, stored or lost: names, ids, splits, and the checksums and the hash "
        "that tell its content",
    ),
    File(
        "quarantine.parquet",
        "what was lost or changed: file, key, kind, id, cause, reason, counts",
        "sets of `shards build`",
    ),
    File("excluded.parquet", "each image that was skipped, with the reason", "sets of `shards pretrain-set`"),
    File(
        "doubtful.parquet",
        "each image that was kept though it looks like one that is held out, and that one",
        "sets of `shards pretrain-set`",
    ),
    File("doubtful.html", "the nearest of these pairs, side by side", "sets of `shards pretrain-set`"),
    File("shard-*.tar", "samples: `<key>.jpg` or `.png`, and `<key>.json`", "sets of `shards build`"),
    File("shard-*.idx", "DALI's index of the tar", "sets of `shards build`"),
    File("parts/*", "the tables of each finished shard, and the lock", "while a build is unfinished"),
    File("again/*", "the set that is to take this one's place", "while images that came later are taken in"),
)

_FOLDERS = (
    ("The folder of a launched graph", "`folder` of the stages file, or `--out`.", GRAPH),
    (
        "The folder of a stage",
        "`<name>-<fingerprint>` in the folder of the graph. A stage that trains with `--run {here}` has the files of a "
        "run in it as well.",
        STAGE,
    ),
    ("The folder of a run", "`--run` of `laconvnet train`.", RUN),
    ("The folder of a set", "`--out` of `laconvnet shards build` and `laconvnet shards pretrain-set`.", SET),
)


def known(place: str, *tables: tuple[File, ...]) -> bool:
    """Whether one of these tables tells of the file at this place in a folder."""
    return any(
        fnmatchcase(place, file.place.rstrip("/") + ("/*" if file.place.endswith("/") else ""))
        for table in tables
        for file in table
    )


def page() -> str:
    """The page in Markdown."""
    parts = [
        "# Folders of runs, stages and sets\n",
        "Files are published whole or not at all: under another name (it begins with a dot) first, then by a rename. "
        "So a name that begins with a dot is no result; the next start removes it. JSON lines may end in a torn line "
        "after a kill; readers pass it over.\n",
    ]
    for title, where, table in _FOLDERS:
        lines = [f"| `{file.place}` | {file.what} | {file.when} |" for file in table]
        parts.append(
            "\n".join([f"## {title}\n", where + "\n", "| file | what it holds | only |", "|---|---|---|", *lines, ""])
        )
    return "\n".join(parts)
