"""`laconvnet import-released`: the authors' weights as a run of ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.output import show


def add(commands: Any) -> None:
    command = commands.add_parser(
        "import-released",
        help="make a run of the authors' released weights",
        description="A checkpoint of the authors' released code (github.com/luogen1996/LaConvNet) as the folder of a "
        "run, which predict, eval and --init_from take. Network (LaConvNet-S or -B) and task (REC or RES) are read off "
        "the names of the tensors; every tensor must have its place. Their training saves averaged weights as "
        "state_dict: those are taken, the optimizer's state is not. Held against the released modules with random "
        "weights; no file of the authors' own weights has been met.",
    )
    command.add_argument("file", type=Path, metavar="FILE", help="their checkpoint, such as det_best.pth")
    command.add_argument(
        "--vocabulary",
        type=Path,
        required=True,
        metavar="F",
        help="JSON, as their checkpoints lack it: their token_to_ix (a list, or word to number), or the annotation "
        "file that the weights were trained on (such as refcoco.json), whose words their code numbers as they come",
    )
    command.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run, new or empty")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(command=_import)


def _import(arguments: argparse.Namespace) -> int:
    from laconvnet.pipeline.inference.import_released import import_released

    show(import_released(arguments.file, arguments.vocabulary, arguments.out), arguments.json)
    return 0
