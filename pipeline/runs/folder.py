"""The folder of a run: its configuration, where it ran, and what is found there at a second start."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from laconvnet.files import publish_json, publish_text, remove_leftovers
from laconvnet.pipeline import config as configuration
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.runs import resumable
from laconvnet.pipeline.runs.layout import CHECKPOINTS, CONFIG, ENVIRONMENT, INCIDENTS, VALIDATED
from laconvnet.pipeline.runs.version import code_version, version_of

_PACKAGES = ("laconvnet", "torch", "deepspeed", "accelerate", "nvidia-dali-cuda130", "pyarrow", "numpy")


def check(config: TrainConfig, run: Path) -> None:
    """Raises ConfigError when the folder holds a run of another configuration."""
    if (run / CONFIG).exists():
        resumable.check(config, run / CONFIG)


def sweep(run: Path) -> None:
    """Remove what a kill left half written or half deleted. One process calls it, before anything is written."""
    for name in (ENVIRONMENT, CONFIG):  # by name: what starts this run may be writing a file of its own there
        remove_leftovers(run, name)
    half = (f"{CHECKPOINTS}/.*", f"{INCIDENTS}/*/.*", f"{VALIDATED}/*/.*")
    for left in (path for pattern in half for path in run.glob(pattern)):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)  # a file server keeps what is still open; a later start sweeps it
        else:
            left.unlink()


def prepare(config: TrainConfig, run: Path, kernels: str | None = None) -> None:
    """Sweep, and write the resolved configuration and the surroundings of a first start, ``kernels`` among them.

    At a later one the configuration says where the data lies now.
    """
    sweep(run)
    if (run / CONFIG).exists():
        resumable.follow(config, run / CONFIG)
        return
    run.mkdir(parents=True, exist_ok=True)
    publish_json(run / ENVIRONMENT, _environment(kernels))
    publish_text(run / CONFIG, configuration.dump(config))


def _environment(kernels: str | None) -> dict[str, object]:
    return {
        "python": sys.version.split()[0],
        "machine": platform.platform(),
        "host": platform.node(),
        "versions": {name: version_of(name) or "not installed" for name in _PACKAGES},
        "code": code_version(),
        "kernels": kernels,
    }
