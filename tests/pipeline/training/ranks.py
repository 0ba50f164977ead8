"""Runs a function of this folder's worker, or the command line, as the ranks of one process group."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_SECONDS = 180


def start(world: int, arguments: list[str], **environment: str) -> list[subprocess.Popen[str]]:
    """One process a rank: `python ARGUMENTS` from the project's root, joined through a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(world):
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            **environment,
        }
        command = [sys.executable, *arguments]
        started.append(
            subprocess.Popen(
                command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    return started


def finish(started: list[subprocess.Popen[str]], expected: int = 0) -> list[str]:
    """What each rank printed; fails, showing it, unless all end with the expected code."""
    told = []
    try:
        for process in started:
            told.append(process.communicate(timeout=DEADLINE_SECONDS)[0])
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    assert codes == [expected] * len(started), f"exit codes {codes}:\n" + "\n---\n".join(told)
    return told


def run(world: int, arguments: list[str], expected: int = 0, **environment: str) -> list[str]:
    return finish(start(world, arguments, **environment), expected)


def train(world: int, run_folder: Path, arguments: list[str], expected: int = 0) -> list[str]:
    """`laconvnet train` on so many ranks; the output of each."""
    return run(world, ["-m", "launch.cli", "train", "--run", str(run_folder), *arguments], expected)
