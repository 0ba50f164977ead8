"""The folder of a run: its configuration, where it ran, and what is found there at a second start."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.runs.files import publish_text
from laconvnet.pipeline.runs.version import code_version

CONFIG = "config.yaml"
_PACKAGES = ("laconvnet", "torch", "deepspeed", "accelerate", "nvidia-dali-cuda130", "pyarrow", "numpy")


def check(config: TrainConfig, run: Path) -> None:
    """Raises ConfigError when the folder holds a run of another configuration."""
    if (run / CONFIG).exists():
        configuration.check_resumable(config, run / CONFIG)


def sweep(run: Path) -> None:
    """Remove what a kill left half written or half deleted. One process calls it, before anything is written."""
    for left in (*run.glob(".partial.*"), *run.glob("checkpoints/.*"), *run.glob("incidents/*/.*")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)  # a file server keeps what is still open; a later start sweeps it
        else:
            left.unlink()


def prepare(config: TrainConfig, run: Path) -> None:
    """Sweep, and write the resolved configuration and the surroundings of a first start."""
    sweep(run)
    if not (run / CONFIG).exists():
        publish_text(run / "environment.json", json.dumps(_environment(), indent=1))
        publish_text(run / CONFIG, configuration.dump(config))


def _environment() -> dict[str, object]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": sys.version.split()[0],
        "machine": platform.platform(),
        "host": platform.node(),
        "versions": versions,
        "code": code_version(),
    }
