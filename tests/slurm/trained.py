"""A training of two processes: as stages for SLURM, one process a node, and without SLURM."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from laconvnet.launch.graph.stages import Stage
from tests.slurm.suite import Work

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "tests" / "pipeline" / "training" / "tiny.yaml"
KEYS = ["--schedule.epochs", "5", "--checkpoint.every", "5"]
TRAIN = """
train:
  run: [train, --config, {config}, --run, "{{here}}", --data.folder, {data}, {keys}]
  processes: 2
  nodes: 2
  gpus: 1
after:
  run: [shards, info, {data}, --json]
  needs: [train]
"""


def trained(run: Path, data: Path, keys: Sequence[str] = KEYS, nudge: str = "") -> Path:
    """The run of two processes on this machine, without SLURM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "tests" / "rounding.py"), "train", "--config", str(CONFIG)]
    command += ["--run", str(run), "--data.folder", str(data), *keys]
    common = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "NUDGE": nudge}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [subprocess.Popen(command, env={**common, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    assert [rank.wait() for rank in ranks] == [0, 0]
    return run


def train_stages(work: Work, data: Path, keys: Sequence[str] = KEYS) -> dict[str, Stage]:
    """The training, and a stage after it."""
    work.entry = "laconvnet.launch.cli:main"
    given = ", ".join(f'"{key}"' for key in keys)
    return work.stages(TRAIN.format(config=CONFIG, data=data, keys=given))
