"""A trained model in the formats that other programs read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from laconvnet.files import publishing
from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference.restore import Restored, restore
from laconvnet.terminal import complain


def export(run: Path, kind: str, out: Path, last: bool = False) -> dict[str, object]:
    """Write the EMA weights of a run's best or last checkpoint, see `restore`, to ``out``, whole or not at all.

    A line says which checkpoint it is.

    `safetensors`: every tensor by its name in the state dict, with configuration and vocabulary (JSON) as metadata.
    `pt2`: the inference model as torch.export sees it, for any number of examples: images (B, 3, S, S) in [0, 1] and
    tokens (B, L) int64 in, the head's output out; configuration and vocabulary travel as extra files. Raises
    ConfigError for a run without a checkpoint, an unknown format, or a path that cannot be written.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format: {kind!r}: expected one of {', '.join(FORMATS)}")
    ready = restore(run, last)
    complain(ready.origin)
    facts = {
        "step": str(ready.step),
        "task": ready.config.model.task,
        "config": configuration.dump(ready.config),
        "vocabulary": ready.vocabulary.to_json(),
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with publishing(out) as partial:
            FORMATS[kind](ready, facts, partial)
    except OSError as error:
        raise ConfigError(f"--out: {out}: cannot be written ({error.strerror}); choose another place") from error
    return {"out": str(out), "format": kind, "bytes": out.stat().st_size, "step": ready.step}


def _safetensors(ready: Restored, facts: dict[str, str], out: Path) -> None:
    from safetensors.torch import save_file

    out.touch()
    mode = out.stat().st_mode  # as the umask has it; the library's own file is for its owner alone
    save_file({name: tensor.contiguous() for name, tensor in ready.model.state_dict().items()}, out, facts)
    out.chmod(mode)


def _pt2(ready: Restored, facts: dict[str, str], out: Path) -> None:
    config = ready.config.data
    images = torch.zeros(2, 3, config.size, config.size, device=ready.device)
    tokens = torch.ones(2, config.words, dtype=torch.int64, device=ready.device)
    several = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(
            ready.model, (images, tokens), dynamic_shapes={"images": {0: several}, "tokens": {0: several}}
        )
    torch.export.save(program, out, extra_files={f"{name}.txt": value for name, value in facts.items()})


FORMATS: dict[str, Callable[[Restored, dict[str, str], Path], None]] = {"safetensors": _safetensors, "pt2": _pt2}
