"""The command line that the suite's cheap stages call: what matters here is how they end, not what they compute."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def note(folder: str | Path, text: str) -> None:
    with open(Path(folder) / "notes", "a") as stream:
        stream.write(text + "\n")


def count(folder: str | Path, steps: int, seconds: float) -> int:
    """A run of so many steps that saves each, and stops when it is told to; rank 0 writes what a training writes."""
    signalled: list[bool] = []
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda *_: signalled.append(True))
    rank, start = os.environ.get("RANK", "0"), os.environ.get("SLURM_RESTART_COUNT", "0")
    state = Path(folder, f"state-{rank}")
    for step in range(int(state.read_text()) if state.exists() else 0, steps):
        time.sleep(seconds)
        note(folder, f"rank {rank} start {start} step {step}")
        state.write_text(str(step + 1))
        if signalled:
            return 130
    return 0


def main(argv: list[str]) -> int:
    command, *rest = argv
    start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if command == "write":  # write FILE TEXT
        Path(rest[0]).write_text(rest[1])
    elif command == "say":  # say CODE TEXT
        print(rest[1], file=sys.stderr)
        return int(rest[0])
    elif command == "count":  # count FOLDER STEPS SECONDS
        return count(rest[0], int(rest[1]), float(rest[2]))
    elif command == "share":  # share FOLDER I/4 HOW: how some of the four shares begin; the others take a moment
        folder, share, how = Path(rest[0]), rest[1], rest[2]
        note(folder, f"{share} {start} {os.environ['SLURMD_NODENAME']}")
        if share in ("1/4", "4/4") and how == "retry" and not start:
            raise OSError("CUDA error: uncorrectable ECC error encountered")
        if share == "1/4" and how == "fail" and not (folder / "mended").exists():
            raise ValueError("no such share")
        if how == "limit":
            own = folder / share.replace("/", "-")
            own.mkdir(exist_ok=True)
            return count(own, 150, 0.5)
        if share == "1/4" and how == "wait":
            return count(folder, 1000, 0.2)
        time.sleep(1)
        note(folder, f"{share} ends")
    elif command == "flaky":  # flaky FOLDER TIMES TEXT: fails so many times
        note(rest[0], f"{start} {os.environ['SLURMD_NODENAME']} {os.environ.get('MASTER_PORT')}")
        if start < int(rest[1]):
            raise OSError(rest[2])
    elif command == "hang":  # hang FOLDER: heeds nothing
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
        note(rest[0], "hanging")
        time.sleep(3600)
    elif command == "lose":  # lose FOLDER: rank 1 is killed while rank 0 waits for it
        note(rest[0], f"rank {os.environ['RANK']}")
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3600)
    elif command == "environment":  # environment FOLDER
        keys = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"]
        keys += ["CUDA_VISIBLE_DEVICES", "SLURMD_NODENAME", "SLURM_CPUS_PER_TASK"]
        values = {key: os.environ.get(key) for key in keys}
        import laconvnet

        values["code"] = str(laconvnet.ROOT)
        Path(rest[0], f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(values))
    return 0
