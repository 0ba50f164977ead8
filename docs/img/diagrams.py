"""Draws the diagrams of the documentation as SVG: `python docs/img/diagrams.py`; a test says when one is out of date.

A diagram is data: boxes in the order of the flow. Colours and text hold on a light and on a dark page.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent

ROOMS = {"shards": "#3f7fbf", "kernels": "#b0562f", "pipeline": "#3c8f57", "launch": "#7a56a8", "": "#7d7d7d"}
_WIDTH, _STEP, _BOX = 760, 78, 50


class Box(NamedTuple):
    """One step of a walk: what works there, on what, and what it hands on (written on the arrow below it)."""

    files: tuple[str, ...]  # paths from the top of the checkout
    what: str
    hands_on: str


SAMPLE = (
    Box(
        ("shards/sources/refer.py",),
        "reads refs(*).p and instances.json as their authors published them",
        "RawSample: a Record and its image file",
    ),
    Box(("shards/build/plan.py",), "cuts the stream into chunks, one a shard", "Chunk"),
    Box(
        ("shards/build/writer.py", "shards/build/images.py"),
        "decodes each image once; quarantines what does not fit",
        "shard-XXXXX.tar and .idx, and parts of the tables",
    ),
    Box(
        ("shards/build/join.py", "shards/format/manifest.py"),
        "joins the parts; manifest.parquet comes last",
        "the set: tars, manifest, examples",
    ),
    Box(
        ("pipeline/data/examples.py",),
        "the examples of a task and split, grouped into items",
        "rows of the example table",
    ),
    Box(
        ("pipeline/data/plan.py",),
        "the items of any step: a function of seed, epoch and position",
        "items of this rank and step",
    ),
    Box(("pipeline/data/reader.py",), "one pread a member, its checksum verified", "encoded bytes"),
    Box(
        ("pipeline/data/decode.py", "pipeline/data/geometry.py"),
        "DALI decodes and letterboxes; boxes and masks move along",
        "images (B, 3, S, S), boxes (B, 4) xyxy",
    ),
    Box(
        ("pipeline/data/loader.py", "pipeline/data/text.py"),
        "words become numbers; all of it becomes one object",
        "Batch",
    ),
    Box(
        ("pipeline/model/model.py", "pipeline/model/net.py"),
        "word encoder, five stages of blocks, head",
        "features (B, C, H, W), words (B, N, 512)",
    ),
    Box(
        ("pipeline/model/blocks/laconv.py", "kernels/operator.py"),
        "filters from the condition, convolved pixel by pixel",
        "the head's output",
    ),
    Box(
        ("pipeline/tasks/rec.py", "pipeline/training/session.py"),
        "terms of the loss; backward; the optimizer's step",
        "checkpoint: weights, optimizer state, EMA",
    ),
    Box(
        ("pipeline/inference/evaluate.py",),
        "every example of a split once: boxes in pixels of the stored image",
        "acc@0.5, miou, answers.jsonl",
    ),
    Box(("pipeline/report/page.py",), "scores beside their baselines, images right and wrong", "report.html"),
)

STAGE = (
    Box(
        ("launch/graph/expansion.py",),
        "values and --set are put in; each makes one stage of every combination",
        "entries of the YAML file",
    ),
    Box(
        ("launch/graph/stages.py",),
        "checks every key, orders the stages, gives each its fingerprint",
        "Graph of Stages, <name>-<fingerprint>",
    ),
    Box(("launch/executor.py",), "chooses what is not done; locks the folder; writes graph.json", "the stages to run"),
    Box(
        ("launch/precheck.py",),
        "parses every command, loads every configuration, looks for every input",
        "no problem, or all of them at once",
    ),
    Box(
        ("launch/local/scheduler.py", "launch/slurm/submission.py"),
        "starts jobs as cores allow, or submits all with afterok",
        "job.json; submission.json on SLURM",
    ),
    Box(
        ("launch/slurm/sbatch.py", "launch/slurm/batch.py"),
        "on SLURM only: the batch script before and after its ranks",
        "starts.jsonl",
    ),
    Box(
        ("launch/job.py",),
        "each rank: environment, signals, then the laconvnet command line",
        "jobs/<job>_<rank>.ok where it succeeded",
    ),
    Box(
        ("launch/cli.py", "launch/commands/training.py"),
        "the same command that a person would type",
        "what the command writes: run, set, scores",
    ),
    Box(
        ("launch/job.py",),
        "the last rank that succeeded finds all .ok files",
        "DONE.json, or FAILED.json of the first that failed",
    ),
    Box(("launch/status.py",), "status, logs, report and the next launch read these files", "found done"),
)

OVERVIEW = (
    ("shards", "raw files", "as published"),
    ("shards", "shards", "checked, whole"),
    ("pipeline", "order", "seed, epoch, position"),
    ("pipeline", "batch", "DALI, words"),
    ("kernels", "LaConv", "filters from words"),
    ("pipeline", "checkpoint", "resumes anywhere"),
    ("pipeline", "scores", "beside baselines"),
    ("launch", "report", "one page"),
)


def walk(boxes: tuple[Box, ...], title: str) -> str:
    """A column of boxes; the colour is that of the room that the first file lies in."""
    height = len(boxes) * _STEP + 10
    parts = [_head(_WIDTH, height, title)]
    for number, box in enumerate(boxes):
        top = 5 + number * _STEP
        room = box.files[0].partition("/")[0]
        parts.append(
            f'<rect x="4" y="{top}" width="{_WIDTH - 8}" height="{_BOX}" rx="6" fill="{ROOMS[room]}" fill-opacity=".13"'
            f' stroke="{ROOMS[room]}"/>'
            f'<text x="18" y="{top + 21}" class="file" fill="{ROOMS[room]}">{escape("  +  ".join(box.files))}</text>'
            f'<text x="18" y="{top + 40}" class="what">{escape(box.what)}</text>'
        )
        arrow = top + _BOX
        last = number == len(boxes) - 1
        parts.append(
            f'<path d="M40 {arrow + 2}v{_STEP - _BOX - 8 if not last else 12}" class="line"/>'
            f'<path d="M36 {arrow + (_STEP - _BOX - 9 if not last else 11)}l4 6l4 -6z" class="tip"/>'
            f'<text x="56" y="{arrow + 18}" class="gives">{escape(box.hands_on)}</text>'
        )
    return "".join(parts) + "</svg>\n"


def overview() -> str:
    """The way of the data as one row: rooms by colour."""
    wide, gap = 112, 18
    width = len(OVERVIEW) * (wide + gap) - gap + 8
    parts = [_head(width, 96, "From raw files over shards, order, batch, LaConv, checkpoint and scores to the report")]
    for number, (room, name, what) in enumerate(OVERVIEW):
        left = 4 + number * (wide + gap)
        middle = left + wide / 2
        parts.append(
            f'<rect x="{left}" y="4" width="{wide}" height="56" rx="6" fill="{ROOMS[room]}" fill-opacity=".15"'
            f' stroke="{ROOMS[room]}"/>'
            f'<text x="{middle:g}" y="28" class="name" text-anchor="middle" fill="{ROOMS[room]}">{escape(name)}</text>'
            f'<text x="{middle:g}" y="47" class="small" text-anchor="middle">{escape(what)}</text>'
            f'<text x="{middle:g}" y="82" class="small" text-anchor="middle">{room}/</text>'
        )
        if number:
            parts.append(
                f'<path d="M{left - gap + 2} 32h{gap - 8}" class="line"/>'
                f'<path d="M{left - 7} 28l6 4l-6 4z" class="tip"/>'
            )
    return "".join(parts) + "</svg>\n"


def _head(width: int, height: int, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img"><title>{escape(title)}</title><style>text{{font:13px sans-serif;fill:#777}}'
        ".file{font:700 13px monospace}.name{font:700 15px sans-serif}.small{font-size:11px}"
        ".gives{font-style:italic}.line{stroke:#888;fill:none;stroke-width:1.5}.tip{fill:#888}"
        + "".join(f'[fill="{colour}"]{{fill:{colour}}}' for colour in ROOMS.values())
        + "</style>"
    )


def drawings() -> dict[str, str]:
    """File name -> SVG of every diagram."""
    return {
        "data.svg": overview(),
        "walk-sample.svg": walk(SAMPLE, "A sample's way from its raw file to a metric, file by file"),
        "walk-stage.svg": walk(STAGE, "A stage's way from its YAML file to DONE.json, file by file"),
    }


if __name__ == "__main__":
    for name, drawing in drawings().items():
        (HERE / name).write_text(drawing, encoding="utf-8")
