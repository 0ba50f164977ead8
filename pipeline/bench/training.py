"""What training costs beside its steps: the loop's bookkeeping, checkpoints, memory; a run of its own for each."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from laconvnet import python_path
from laconvnet.kernels.bench import Row
from laconvnet.pipeline.bench.rows import empty_row, rows_of, surroundings
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs.memory import Memory

if TYPE_CHECKING:
    from laconvnet.pipeline.config import TrainConfig

Line = dict[str, Any]

_DEFAULTS = {
    "cpu": {
        "model.preset": "tiny",
        "model.heads.anchors": "{stride: 8, sizes: [[9, 9], [13, 13], [18, 18]]}",
        "data.size": "64",
        "data.batch": "16",
        "engine.precision": "fp32",
    },
    "cuda": {"model.preset": "s", "data.size": "416", "data.batch": "32"},
}
CONFIG = "config.yaml"  # in the folder of a run that is watched
LOOKS = 40  # at the memory, an epoch
_BETWEEN = 10  # steps from one checkpoint to the next
_SMALL = 4  # examples of a batch where the memory is watched
_PICTURES = 16
_ADDED = ("median", "spread", "q1", "q3", "over_percent", "over_spread", "over_low", "over_high")


def settings(file: Path | None, keys: Sequence[str], device: torch.device) -> TrainConfig:
    """The configuration that is measured: of the file and the keys, else a small one for a CPU, S at 416 for a GPU."""
    from laconvnet.pipeline import config as configuration

    usual = {} if file else _DEFAULTS[device.type]
    given = [word for key, value in usual.items() for word in (f"--{key}", value)]
    config = configuration.load(file, ["--data.folder", "made", *given, *keys])
    if config.model.task != "rec":
        raise ConfigError(
            f"model.task: {config.model.task!r}: expected rec; the images made to measure have boxes only"
        )
    return config


@dataclass(frozen=True)
class Part:
    """A run that is watched: what it trains, for how many steps, and what its lines come to."""

    name: str
    config: TrainConfig
    steps: int
    lines: int  # about so many are told
    rows: Callable[[list[Line]], list[Row]]
    device: torch.device

    def measure(self, told: Callable[[], object]) -> list[Row]:
        """The rows of this part; ``told`` is called now and then while it runs, once a line."""
        where = surroundings(self.device)
        lines: list[Line] = []
        try:
            with tempfile.TemporaryDirectory() as place, closing(self._run(Path(place))) as run:
                for line in run:
                    lines.append(line)
                    told()
            rows = self.rows(lines)
        except RuntimeError as error:
            rows = [empty_row(self.name, f"failed: {error}")]
        data = self.config.data
        shape = {
            "preset": self.config.model.preset,
            "size": data.size,
            "batch": data.batch,
            "precision": self.config.engine.precision,
            "zero": self.config.engine.zero,
            "steps": self.steps,
        }
        return [{**row, "bench": self.name, **shape, **where} for row in rows]

    def _run(self, place: Path) -> Generator[Line]:
        from laconvnet.pipeline import config as configuration
        from laconvnet.pipeline.bench.made import images, made_set

        (place / "set").mkdir()
        data = replace(self.config.data, folder=str(place / "set"))
        samples = round(self.steps * data.batch / self.config.schedule.epochs)
        width, height = data.size * 3 // 2, data.size
        made_set(place / "set", images(_PICTURES, width, height), samples, width, height)
        (place / CONFIG).write_text(configuration.dump(replace(self.config, data=data)))
        with _watching(self.name, place, self.device) as lines:
            yield from lines


@contextmanager
def _watching(part: str, place: Path, device: torch.device) -> Iterator[Iterator[Line]]:
    """What `pipeline.bench.loop` tells. Raises RuntimeError with its last word where it fails."""
    reading, writing = os.pipe()
    variables = {**os.environ, "PYTHONPATH": python_path()}
    memory = Memory.make(keeps=True) if part == "supervised" else None
    if memory:
        variables |= memory.variables()
    if device.type == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "laconvnet.pipeline.bench.loop", part, str(place), str(writing)]
    log = place / "log.txt"
    with log.open("w") as said, os.fdopen(reading) as lines:
        process = subprocess.Popen(
            command,
            env=variables,
            pass_fds=[writing, *(memory.descriptors if memory else ())],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        os.close(writing)
        try:
            yield (json.loads(line) for line in lines)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise RuntimeError(last[-1] if last else f"exit code {code}")


def parts(config: TrainConfig, device: torch.device, rounds: int, epoch: int, names: Sequence[str]) -> list[Part]:
    """The parts of these names: memory over two epochs of so many steps, the others in so many rounds."""
    base = replace(
        config,
        data=replace(config.data, split="train", window=0, vectors=None),  # the made words are in no vector file
        schedule=replace(config.schedule, epochs=1.0, warmup=0.0),
        checkpoint=replace(config.checkpoint, every=10**9),
        log=replace(config.log, profile=None, trackers=("tensorboard",)),  # none of this is a run to remember
        init_from=None,
    )
    every = base.log.every
    saving = replace(base, checkpoint=replace(base.checkpoint, every=_BETWEEN, keep=1))
    keeping = replace(base, checkpoint=replace(base.checkpoint, memory=1.0))
    small = replace(base.data, batch=_SMALL * base.engine.accumulate, flip=0.5, jitter=0.2, colour=0.2)
    growing = replace(base, data=small, schedule=replace(base.schedule, epochs=2.0))
    # One round to warm up.
    made = {
        **{
            name: Part(name, chosen, *_told((rounds + 1) * every), lambda lines: loop_rows(lines, every), device)
            for name, chosen in (("loop", base), ("supervised", keeping))
        },
        "checkpoint": Part("checkpoint", saving, *_told((rounds + 2) * _BETWEEN), checkpoint_rows, device),
        "memory": Part("memory", growing, 2 * epoch, 2 * min(epoch, LOOKS), memory_rows, device),
    }
    return [made[name] for name in names]


def _told(lines: int) -> tuple[int, int]:
    """Steps to take for so many lines: of the last, behind which no batch is asked for, nothing is told."""
    return lines + 1, lines


def loop_rows(lines: list[Line], every: int) -> list[Row]:
    """The loop beside bare steps in ms, step by step; those up to the first report are left out.

    `bare` is forward, loss, backward and the engine's step; the baseline takes the EMA in as well. The steps that
    report are looked at apart, and count as often as they come: one in ``every``.
    """
    kept = lines[every:]
    names = {"bare": "bare", "bare, with averages": "averaged", "loop": "loop"}
    parts = []
    for reports in (False, True):
        taken = [line for line in kept if ((line["step"] + 1) % every == 0) == reports]
        values = {name: [1e3 * line[key] for line in taken] for name, key in names.items()}
        if taken:
            parts.append((1 / every if reports else 1 - 1 / every, rows_of(values, "bare, with averages", "ms")))
    found = [_together([(share, rows[place]) for share, rows in parts]) for place in range(len(names))]
    baseline = next(row for row in found if row["name"] == row["baseline"])
    return [{**row, "ratio": baseline["median"] / row["median"]} for row in found]


def _together(parts: list[tuple[float, Row]]) -> Row:
    """One row from those of steps of several kinds, each with its share of the steps."""
    added = {name: sum(share * row[name] for share, row in parts) for name in _ADDED}
    return {**parts[0][1], **added, "rounds": sum(row["rounds"] for _, row in parts)}


def checkpoint_rows(lines: list[Line]) -> list[Row]:
    """Steps that save beside the others in ms; the last row has all that a checkpoint adds, while it is written too.

    A round begins with the step that saves and ends before the next one; the first is left out.
    """
    *steps, size = lines
    first, *later = [place for place, line in enumerate(steps) if line["saves"]]
    assert first == _BETWEEN - 1, "the first step that saves"
    values: dict[str, list[float]] = {"step": [], "step that saves": [], "step with all that saving adds": []}
    for place in later:
        taken = [1e3 * line["seconds"] for line in steps[place : place + _BETWEEN]]
        if len(taken) < _BETWEEN:
            break
        usual = statistics.median(taken[1:])
        values["step"].append(usual)
        values["step that saves"].append(taken[0])
        values["step with all that saving adds"].append(sum(taken) - (_BETWEEN - 1) * usual)
    return [{**row, "checkpoint_mb": size["bytes"] / 1e6} for row in rows_of(values, "step", "ms")]


def memory_rows(lines: list[Line]) -> list[Row]:
    """Resident memory in MB towards the end of the second epoch, beside the end of the first."""
    resident = [line["resident_mb"] for line in lines]
    half = len(resident) // 2
    last = max(1, half // 4)
    values = {"end of the first epoch": resident[half - last : half], "end of the second": resident[-last:]}
    return rows_of(values, "end of the first epoch", "MB")
