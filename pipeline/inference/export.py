"""A trained model in the formats that other programs read."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from laconvnet.files import publishing, publishing_folder
from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference import hub, onnx_file, program_file
from laconvnet.pipeline.inference.portable import Portable
from laconvnet.pipeline.inference.restore import Restored, restore
from laconvnet.pipeline.runs.checkpoints import run_of
from laconvnet.terminal import complain

IMPORT = "import laconvnet.kernels"  # what a program needs before it reads a file with our operator
_CPU = torch.device("cpu")


def export(run: Path, kind: str, out: Path, last: bool = False, operator: bool = False) -> dict[str, object]:
    """Write the EMA weights of a run's best or last checkpoint, see `restore`, to ``out``, whole or not at all.

    A line says which checkpoint it is.

    `safetensors`: every tensor by its name in the state dict, with configuration and vocabulary (JSON) as metadata.
    `pt2` and `onnx`: the inference model for any number of examples: images (B, 3, S, S) in [0, 1] and tokens (B, L)
    int64 in, what the task reads off the head's output out (`Task.outputs`), in operators that PyTorch and ONNX
    have themselves; with ``operator`` a pt2 keeps ours, which the reader has to import. `facts` travel as extra files,
    as metadata_props. A file is for a CPU, whatever machine writes it. `hub`: a folder as `inference.hub` has it.

    Raises ConfigError for a run without a checkpoint, an unknown format, a package or an operator that the format lacks
    here, or a path that cannot be written.
    """
    if kind not in KINDS:
        raise ConfigError(f"--format: {kind!r}: expected one of {', '.join(KINDS)}")
    if operator and kind != "pt2":
        raise ConfigError(f"--operator: {kind} knows no operators of ours; expected --format pt2")
    if kind == "onnx" and find_spec("onnx") is None:
        raise ConfigError("--format: onnx: the package onnx is not here; pip install 'laconvnet[onnx]'")
    ready = restore(run, last, _CPU)
    complain(ready.origin)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if kind == "hub":
            with publishing_folder(out) as folder:
                _safetensors(ready, operator, folder / hub.WEIGHTS)
                hub.complete(folder, out.name, facts(ready), run_of(run))
        else:
            with publishing(out) as partial:
                FORMATS[kind](ready, operator, partial)
    except OSError as error:
        raise ConfigError(f"--out: {out}: cannot be written ({error.strerror}); choose another place") from error
    size = sum(file.stat().st_size for file in (out.iterdir() if out.is_dir() else [out]))
    return {"out": str(out), "format": kind, "bytes": size, "step": ready.step}


def facts(ready: Restored) -> dict[str, str]:
    """What a file says of its weights: with them it can be trained or asked again."""
    return {
        "step": str(ready.step),
        "task": ready.config.model.task,
        "config": configuration.dump(ready.config),
        "vocabulary": ready.vocabulary.to_json(),
    }


def facts_of_use(ready: Restored) -> dict[str, str]:
    """What a program needs to know besides to ask the model: all but the numbers in JSON."""
    return facts(ready) | {
        "head": ready.config.model.head_name(),
        "size": str(ready.config.data.size),
        "length": str(ready.config.data.words),
        "marks": json.dumps(ready.vocabulary.marks),
        "outputs": json.dumps(ready.task.outputs),
    }


def _safetensors(ready: Restored, _: bool, out: Path) -> None:
    from safetensors.torch import save

    # Its save_file says nothing that is an OSError of a full disk, and writes a file for its owner alone.
    weights = {name: tensor.contiguous() for name, tensor in ready.model.state_dict().items()}
    out.write_bytes(save(weights, facts(ready)))


def _example(ready: Restored) -> tuple[Tensor, Tensor]:
    data = ready.config.data
    return torch.zeros(2, 3, data.size, data.size), torch.ones(2, data.words, dtype=torch.int64)


def _pt2(ready: Restored, operator: bool, out: Path) -> None:
    told = facts_of_use(ready) | ({"import": IMPORT} if operator else {})
    program_file.write(Portable(ready.model, ready.task), _example(ready), told, out, operator)


def _onnx(ready: Restored, _: bool, out: Path) -> None:
    onnx_file.write(Portable(ready.model, ready.task), _example(ready), facts_of_use(ready), out)


FORMATS: dict[str, Callable[[Restored, bool, Path], None]] = {"safetensors": _safetensors, "pt2": _pt2, "onnx": _onnx}
KINDS = (*FORMATS, "hub")
