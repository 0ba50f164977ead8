"""What two runs must share to the last bit: the losses of every step, and all that the last checkpoint holds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from laconvnet.launch.status import last_checkpoint
from laconvnet.pipeline.runs.records import read_lines

SAME = ("loss", "grad_norm", "lr")  # of each step

Losses = dict[int, tuple[float, ...]]


def losses(run: Path) -> Losses:
    """What the log says of each step; a step that was taken twice must have said the same both times."""
    found: Losses = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        values = tuple(entry[key] for key in SAME)
        assert found.setdefault(entry["step"], values) == values, f"step {entry['step']} differs from its first time"
    return found


def logged(run: Path) -> int:
    """The newest step in the log."""
    log = run / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def restarts(run: Path) -> list[dict[str, Any]]:
    """What the run tells of each time that its lost ranks were started again."""
    return [entry for entry in read_lines(run / "restarts.jsonl") if "round" in entry]


def weights(run: Path) -> str:
    """A digest of everything that the newest checkpoint holds."""
    import torch

    state = torch.load(run / "checkpoints" / str(last_checkpoint(run)) / "state.pt", weights_only=True)
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                digest.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif isinstance(value, torch.Tensor):
            digest.update(value.contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else str(value).encode())
        else:
            digest.update(str(value).encode())

    add({key: value for key, value in state.items() if key not in ("data",)})
    return digest.hexdigest()
