"""Where the curves of a run are drawn while it trains: its trackers, as links or as commands that open them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# What opens that which lies in the run's folder.
_COMMANDS = {
    "tensorboard": "tensorboard --logdir {run}/tensorboard",
    "wandb": "wandb sync {run}/wandb/offline-run-*",
    "mlflow": "MLFLOW_ALLOW_FILE_STORE=true mlflow server --backend-store-uri {run}/mlruns",
}


@dataclass(frozen=True)
class Tracked:
    """A tracker of a run: a link to its page there, or without one the command that shows what it kept here."""

    name: str
    url: str | None
    command: str


def tracked(run: Path, kept: Mapping[str, Any]) -> list[Tracked]:
    """The trackers of a run, by what its `trackers.json` holds: whoever writes there chooses no link but a web page."""
    found = []
    for name in sorted(kept.keys() & _COMMANDS):
        url = kept[name].get("url") if isinstance(kept[name], dict) else None
        web = isinstance(url, str) and _is_web(url)
        found.append(Tracked(name, url if web else None, _COMMANDS[name].format(run=shlex.quote(str(run)))))
    return found


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)
