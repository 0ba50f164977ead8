"""`laconvnet replay` and `export`: what can be done with a run besides scoring it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.output import show


def add(commands: Any) -> None:
    _add_replay(commands)
    _add_export(commands)


def _add_replay(commands: Any) -> None:
    command = commands.add_parser(
        "replay",
        help="run one bad step of a run again",
        description="Run one step of a run again, from the state before it, in fp32 and under anomaly detection: which "
        "module was the first whose output is not finite, and what broke in the backward pass. The run stays as it is. "
        "The guard keeps the state before a bad step; for other steps the newest checkpoint before it is taken.",
    )
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    command.add_argument("step", type=int, metavar="STEP", help="the step, counted from 0 as the guard names it")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(command=_replay)


def _replay(arguments: argparse.Namespace) -> int:
    from laconvnet.pipeline.training.replay import replay

    show(replay(arguments.run, arguments.step), arguments.json)
    return 0


def _add_export(commands: Any) -> None:
    command = commands.add_parser(
        "export",
        help="write a run's model for other programs",
        description="The averaged weights of a run's newest checkpoint, with configuration and vocabulary in the file.",
    )
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    command.add_argument(
        "--format",
        required=True,
        choices=("safetensors", "pt2"),
        help="safetensors: the tensors by name; pt2: the inference model as torch.export writes it",
    )
    command.add_argument("--out", type=Path, required=True, metavar="F", help="the file to write")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> int:
    from laconvnet.pipeline.inference.export import export

    show(export(arguments.run, arguments.format, arguments.out), arguments.json)
    return 0
