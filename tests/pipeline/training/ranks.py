"""Runs the command line, a script of this folder or a text as the ranks of one process group.

Ranks are forked from a server that has imported what they need, which takes longer than most of them run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_SECONDS = 300
_FORKED = multiprocessing.get_context("forkserver")
# The longest of what accelerate and DeepSpeed import only while a run starts.
_LATE = ["transformers", "torch._dynamo", "deepspeed.runtime.zero.muon.original_muon", "torch.utils.tensorboard"]
_FORKED.set_forkserver_preload(
    ["deepspeed", "accelerate", *_LATE, "laconvnet.pipeline.training.loop", "laconvnet.launch.cli"]
)


class Rank:
    """One process, and what it prints."""

    def __init__(self, arguments: list[str], variables: dict[str, str]) -> None:
        descriptor, name = tempfile.mkstemp(prefix="rank-", suffix=".log")
        os.close(descriptor)
        self._log = Path(name)
        self._process = _FORKED.Process(target=_run, args=(arguments, variables, name))
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # read by the server's torch, when the first rank starts it
        try:
            self._process.start()
        finally:
            os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
        assert self._process.pid is not None
        self.pid = self._process.pid

    def wait(self, seconds: float) -> None:
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still running after {seconds:.0f} s:\n{self.output}"

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._log.unlink(missing_ok=True)


def _run(arguments: list[str], variables: dict[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(ROOT)
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path.insert(0, str(ROOT))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which the tests may run, has it ignored
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def start(world: int, arguments: list[str], **environment: str) -> list[Rank]:
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
        started.append(Rank(arguments, variables))
    return started


def comes_to(started: list[Rank], so: Callable[[], bool]) -> bool:
    """Wait until it is so, or (False) until rank 0 has come to its end."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while started[0].returncode is None:
        if so():
            return True
        assert time.monotonic() < deadline, started[0].output
        time.sleep(0.02)
    return False


def stands_still(started: list[Rank]) -> bool:
    """Wait until rank 0 has stopped (SIGSTOP), or (False) until it has come to its end."""
    stat = Path(f"/proc/{started[0].pid}/stat")

    def stopped() -> bool:
        with contextlib.suppress(OSError):
            return stat.read_text().rpartition(")")[2].split()[0] == "T"
        return False

    return comes_to(started, stopped)


def finish(started: list[Rank], expected: int = 0) -> list[str]:
    """What each rank printed; fails, showing it, unless all end with the expected code."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        for process in started:
            process.wait(deadline - time.monotonic())
        output, codes = [process.output for process in started], [process.returncode for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [expected] * len(started), f"exit codes {codes}:\n" + "\n---\n".join(output)
    return output


def run(world: int, arguments: list[str], expected: int = 0, **environment: str) -> list[str]:
    return finish(start(world, arguments, **environment), expected)


def train(world: int, run_folder: Path, arguments: list[str], expected: int = 0) -> list[str]:
    """`laconvnet train` on so many ranks; the output of each."""
    return run(world, ["-m", "laconvnet.launch.cli", "train", "--run", str(run_folder), *arguments], expected)
