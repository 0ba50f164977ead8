"""What can be known to go wrong before anything is submitted: one line a problem, all of them at once."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from laconvnet import configs
from laconvnet.launch.graph.stages import Graph, Stage
from laconvnet.launch.slurm import queue
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs import layout
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.remote import url_of

if TYPE_CHECKING:
    from laconvnet.pipeline.config import TrainConfig

# Options of laconvnet whose values are read: they must be there, unless an earlier stage writes them.
INPUTS = (
    *("--root", "--images", "--data", "--data.folder", "--data.vectors", "--model.backbone_weights"),
    *("--init_from", "--inputs", "--exclude", "--against"),
)
_NONE = "null"  # as in --data.vectors null
_REMEDIES = {"--data.vectors": "; expected GloVe's text, or null, which learns word vectors"}


def commands(graph: Graph, taken: Iterable[Stage], line: argparse.ArgumentParser) -> list[str]:
    """Whether each stage's command line parses, its configuration loads, its batch divides.

    `line` is the parser of `laconvnet`, which knows the commands, which know the stages.
    """
    known = Loaded()
    problems = []
    for stage in taken:
        problems += [f"{graph.file}: stage {stage.name!r}: {problem}" for problem in _command(line, known, stage)]
    return problems


def missing(graph: Graph, taken: Iterable[Stage]) -> list[str]:
    """What the stages read that neither lies here nor is written by a stage of the graph: a line each."""
    return [
        f"{graph.file}: stage {stage.name!r}: run: {option} {value}: no such file or folder here, and no stage of this "
        f"graph writes it{_REMEDIES.get(option, '')}"
        for stage in taken
        for option, value in _inputs(stage.argv)
        if value != _NONE and not (url_of(value) or _is_there(Path(value)) or Path(value).is_relative_to(graph.folder))
    ]


class Loaded:
    """Training configurations, those that differ in the folders that they read from loaded once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], TrainConfig | ConfigError | InputError] = {}

    def load(self, file: Path | None, keys: Sequence[str]) -> TrainConfig:
        """Raises ConfigError or InputError, as `pipeline.config.load` does."""
        from laconvnet.pipeline import config

        folders = {value for option, value in _inputs(keys)}
        key = (str(file), *(part for part in keys if part not in folders))
        if key not in self._known:
            try:
                self._known[key] = config.load(file, keys)
            except (ConfigError, InputError) as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, Exception):
            raise found
        return found


def scripts(graph: Graph, taken: Iterable[Stage], script: Callable[[Stage], str]) -> list[str]:
    """What sbatch itself would refuse: accounts, limits, flags. Scripts that differ in names only are asked once."""
    problems = []
    asked: dict[tuple[str, ...], str | None] = {}
    for stage in taken:
        text = script(stage)
        own = ("#SBATCH --comment", "#SBATCH --error", "#SBATCH --output", "#SBATCH --job-name")
        key = tuple(line for line in text.splitlines() if line.startswith("#SBATCH") and not line.startswith(own))
        if key not in asked:
            try:
                queue.run(["sbatch", "--test-only"], text)
                asked[key] = None
            except queue.SlurmError as error:
                asked[key] = str(error)
        if asked[key] is not None:
            problems.append(f"{graph.file}: stage {stage.name!r}: {asked[key]}")
    return problems


def _command(line: argparse.ArgumentParser, known: Loaded, stage: Stage) -> list[str]:
    captured = io.StringIO()
    argv = stage.argv if stage.array is None else stage.job(0).argv
    try:
        with contextlib.redirect_stderr(captured), contextlib.redirect_stdout(io.StringIO()):
            arguments, rest = line.parse_known_args(argv)
    except SystemExit:
        last = captured.getvalue().strip().splitlines()
        return [f"run: {last[-1] if last else 'expected a command that does something'}"]
    if rest and not getattr(arguments, "takes_keys", False):
        return [f"run: unknown argument {rest[0]!r}; see `laconvnet {stage.argv[0]} --help`"]
    return _training(known, stage, arguments.config, rest) if stage.argv[0] == "train" else []


def _training(known: Loaded, stage: Stage, file: Path | None, keys: Sequence[str]) -> list[str]:
    if file is not None and not configs.found(file).exists():
        return []  # a stage writes it
    try:
        loaded = known.load(file, keys)
    except (ConfigError, InputError) as error:
        return [str(error)]
    if loaded.data.batch % stage.processes:
        return [
            f"processes: got {stage.processes}, which does not divide data.batch {loaded.data.batch}; choose a "
            "number that does"
        ]
    return []


def _is_there(place: Path) -> bool:
    """Whether what is to be read lies here; of a run's last checkpoint, the run."""
    return (place.parent if layout.is_last(place) else place).exists()


def _inputs(argv: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Options that name something to read, and what they name."""
    option = None
    for part in argv:
        if part.startswith("--"):
            option, equals, value = part.partition("=")
            option = option if option in INPUTS else None
            if option and equals:
                yield option, value
        elif option is not None:
            name, equals, weight = part.rpartition("=")
            yield option, name if option == "--inputs" and equals and weight else part
            if option not in ("--inputs", "--exclude", "--against"):
                option = None
