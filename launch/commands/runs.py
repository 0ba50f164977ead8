"""`laconvnet replay` and `export`: what can be done with a run besides scoring it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from laconvnet.launch import commandline
from laconvnet.launch.commandline import Arg, Json, Last, Run
from laconvnet.launch.commands.output import show


def add(commands: Any) -> None:
    commandline.add(commands, replay, export)


def replay(
    run: Run,
    step: Annotated[int, Arg("the step, counted from 0 as the guard names it", "STEP")],
    *,
    json: Json = False,
) -> None:
    """Run one bad step of a run again.

    Run one step of a run again, from the state before it, in fp32 and under anomaly detection: which module was the
    first whose output is not finite, and what broke in the backward pass. The run stays as it is. The guard keeps the
    state before a bad step; for other steps the newest checkpoint before it is taken.

    For example:
      laconvnet replay runs/first 1234
    """
    from laconvnet.pipeline.training import replay as again

    show(again.replay(run, step), json)


def export(
    run: Run,
    *,
    format: Annotated[
        Literal["safetensors", "hub", "pt2", "onnx"],
        Arg(
            "safetensors: the tensors by name; hub: a folder of them with a card; pt2: a program of torch.export; "
            "onnx: for ONNX Runtime and others"
        ),
    ],
    out: Annotated[Path, Arg("the file to write, or the folder of hub", "F")],
    operator: Annotated[bool, Arg("a pt2 keeps our operator, which is faster; its reader has to import it")] = False,
    last: Last = False,
    json: Json = False,
) -> None:
    """Write a run's model for other programs.

    The EMA weights of a run's best checkpoint where it was validated while it trained, else of its last, with
    configuration and vocabulary in the file.

    A pt2 and an onnx file need nothing of this package to be read. They take images and words, and give boxes, masks or
    answers. docs/export.md has a program that reads each.

    For example:
      laconvnet export runs/first --format onnx --out model.onnx
    """
    from laconvnet.pipeline.inference import export as exporting

    show(exporting.export(run, format, out, last, operator), json)
