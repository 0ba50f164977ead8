"""A small command line that jobs can call, whose commands do real work, and the stages files that name them."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = """
import json, os, signal, socket, sys, time
from pathlib import Path

def note(text):
    with open(os.environ["EVENTS"], "a") as stream:
        stream.write(f"{text} {os.getpid()}\\n")

def wait_for(path):
    for _ in range(600):
        if Path(path).exists():
            return
        time.sleep(0.05)
    raise TimeoutError(f"{path} did not come")

def main(argv):
    command, *rest = argv
    if command == "write":                      # write FILE TEXT
        note("start " + rest[1])
        Path(rest[0]).write_text(rest[1])
        note("end " + rest[1])
    elif command == "meet":                     # meet OWN OTHER: ends only if the other runs at the same time
        note("start " + rest[0])
        Path(os.environ["EVENTS"] + rest[0]).touch()
        wait_for(os.environ["EVENTS"] + rest[1])
        note("end " + rest[0])
    elif command == "say":                      # say CODE TEXT: the way of a command that fails
        note("start say")
        print(rest[1], file=sys.stderr)
        return int(rest[0])
    elif command == "share":                    # share FOLDER I/N [meet]: the second fails until it is mended
        note("start " + rest[1])
        if rest[2:] == ["meet"] and rest[1][0] in "12":     # the first two end only if they run at the same time
            Path(os.environ["EVENTS"] + rest[1][0]).touch()
            wait_for(os.environ["EVENTS"] + {"1": "2", "2": "1"}[rest[1][0]])
        note("end " + rest[1])
        if rest[1].startswith("2/") and not Path(rest[0], "mended").exists():
            raise ValueError("no such share")
    elif command == "raise":
        raise ValueError(rest[0])
    elif command == "usage":
        raise SystemExit(2)
    elif command == "environment":              # environment FOLDER
        keys = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT OMP_NUM_THREADS".split()
        values = {key: os.environ.get(key) for key in keys} | {"torch": "torch" in sys.modules}
        Path(rest[0], f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(values))
    elif command == "reduce":                   # reduce FOLDER
        import torch
        torch.distributed.init_process_group("gloo")
        total = torch.tensor([2.0 ** torch.distributed.get_rank()])
        torch.distributed.all_reduce(total)
        Path(rest[0], f"sum-{torch.distributed.get_rank()}").write_text(str(total.item()))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    elif command == "lose":                     # rank 1 is killed, rank 0 hangs and heeds nothing
        note("start lose")
        if os.environ["RANK"] == "1":
            wait_for(os.environ["EVENTS"] + "hung")
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = os.fork()
        if child == 0:
            note("start worker")
        Path(os.environ["EVENTS"] + "hung").touch()
        time.sleep(600)
    elif command == "linger":                   # linger GATE: hangs until the gate is there
        note("start linger")
        if os.fork() == 0:
            note("start worker")
            time.sleep(600)
        while not Path(rest[0]).exists():
            try:
                time.sleep(0.05)
            except KeyboardInterrupt:
                note("tidied")
                return 130
    elif command == "sit":                      # until it is told to end
        note("start sit")
        while True:
            time.sleep(0.05)
    elif command == "port":                     # the first time, somebody else has taken the port meanwhile
        if os.environ["RANK"] == "0":
            sockets = [socket.socket()]
            if not Path(rest[0]).exists():
                Path(rest[0]).write_text(os.environ["MASTER_PORT"])
                sockets.append(socket.socket())
            for one in sockets:
                one.bind(("127.0.0.1", int(os.environ["MASTER_PORT"])))
                one.listen()
    elif command == "abort":                    # the work is done, then the process aborts while leaving
        import atexit
        atexit.register(os.abort)
    elif command == "uneven":                   # rank 0 is done at once, rank 1 fails later
        if os.environ["RANK"] == "1":
            wait_for(os.environ["EVENTS"] + "rank0")
            raise ValueError("lost at the end")
        Path(os.environ["EVENTS"] + "rank0").touch()
    return 0
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the test; jobs started from it find the command line above."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "stage_entry.py").write_text(PROGRAM)
    monkeypatch.setattr("laconvnet.launch.job.ENTRY", "stage_entry:main")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'lib'}:{ROOT}:{HERE}")
    monkeypatch.setenv("EVENTS", str(tmp_path / "events"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def until() -> Callable[[Callable[[], object], str], None]:
    """Wait for a condition; what did not happen is the error."""

    def wait(condition: Callable[[], object], what: str) -> None:
        for _ in range(600):
            if condition():
                return
            time.sleep(0.05)
        raise TimeoutError(what)

    return wait


@pytest.fixture
def stages(work: Path) -> Callable[[str], Path]:
    """Write a stages file from the text under `stages:`."""

    def write(text: str) -> Path:
        file = work / "stages.yaml"
        body = textwrap.indent(textwrap.dedent(text).strip("\n"), "  ")
        file.write_text(f"name: small\nfolder: runs\nstages:\n{body}\n")
        return file

    return write


@pytest.fixture
def events(work: Path) -> Callable[[], list[str]]:
    """What the commands noted so far, without process ids."""

    def read() -> list[str]:
        file = work / "events"
        return [line.rpartition(" ")[0] for line in file.read_text().splitlines()] if file.exists() else []

    return read


FAKES = {
    "sbatch": """
        if [ "$1" = --test-only ]; then
            cat > test-only
            if [ -e refuse-test ]; then cat refuse-test >&2; exit 1; fi
            exit
        fi
        count=$(($(cat count 2>/dev/null || echo 100) + 1)); echo $count > count
        if [ -e refuse ] && [ "$(cat refuse)" = $count ]; then echo "sbatch: error: QOSMaxSubmit" >&2; exit 1; fi
        echo "sbatch $count" $(grep -o 'array=.*' "$1") $(grep -o 'dependency=.*' "$1") >> calls
        echo "Submitted batch job $count"
    """,
    "squeue": "[ ! -e down ] || exit 1; cat queue 2>/dev/null || true",
    "scancel": 'echo "scancel $*" >> calls',
    "scontrol": 'if [ "$1" = show ]; then cat config 2>/dev/null; else echo "scontrol $*" >> calls; fi',
    "sacctmgr": "cat limits 2>/dev/null || true",
    "sinfo": "echo 'main*|2|8|infinite|gpu:4'; echo 'short|1|8|30:00|(null)'",
    "sacct": "cat books 2>/dev/null || true",
}


@pytest.fixture
def slurm(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's commands as far as a launch can tell: what they are asked stands in `calls` of the folder returned.

    `queue`, `books`, `config` and `limits` there are what squeue, sacct, scontrol and sacctmgr print; `refuse` is the
    job that sbatch refuses.
    """
    folder = work / "slurm"
    folder.mkdir()
    for name, body in FAKES.items():
        program = folder / name
        program.write_text(f"#!/bin/bash\ncd {folder}\n{textwrap.dedent(body)}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    (work / "site.yaml").write_text("cpus_per_task: 1\ngpus_per_node: 4\n")
    return folder
