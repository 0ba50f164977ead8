"""`laconvnet import-released`: the authors' weights as a run of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from laconvnet.launch import commandline
from laconvnet.launch.commandline import Arg, Json
from laconvnet.launch.commands.output import show


def add(commands: Any) -> None:
    commandline.add(commands, import_released)


def import_released(
    file: Annotated[Path, Arg("their checkpoint, such as det_best.pth", "FILE")],
    *,
    vocabulary: Annotated[
        Path,
        Arg(
            "JSON, as their checkpoints lack it: their token_to_ix (a list, or word to number), or the annotation file "
            "that the weights were trained on (such as refcoco.json), whose words their code numbers as they come",
            "F",
        ),
    ],
    out: Annotated[Path, Arg("folder of the run, new or empty", "RUN")],
    json: Json = False,
) -> None:
    """Make a run of the authors' released weights.

    A checkpoint of the authors' released code (github.com/luogen1996/LaConvNet) as the folder of a run, which predict,
    eval and --init_from take. Network (LaConvNet-S or -B) and task (REC or RES) are read off the names of the tensors;
    every tensor must have its place. Their training saves EMA weights as state_dict: those are taken, the
    optimizer's state is not. Held against the released modules with random weights; no file of the authors' own weights
    has been met.

    For example:
      laconvnet import-released det_best.pth --vocabulary token_embed.pickle --out runs/released
    """
    from laconvnet.pipeline.inference import import_released as released

    show(released.import_released(file, vocabulary, out), json)
