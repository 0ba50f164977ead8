"""One process trains a run. It says so in a file of the run's folder, and gives it a new time every few seconds.

A second one that finds the file takes the place only of an owner that is gone: its process has ended on this very
machine, its job was started again by SLURM or is not in SLURM's queue any more, or the file has kept its time while it
was watched. Only whether the time changes is looked at, never which it is: another node's clock may be wrong. An owner
that was taken for gone and comes back finds another's name in the file before it publishes anything.

No file lock: cluster file systems are mounted without them, or with locks that end at the node.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import threading
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from laconvnet.files import publish_json, read_object
from laconvnet.pipeline.errors import ConfigError, TrainingError
from laconvnet.pipeline.runs import fence
from laconvnet.pipeline.runs.layout import OWNER
from laconvnet.terminal import complain

BEAT_SECONDS = 5.0
STILL_SECONDS = 60.0  # without a beat: a file server that stands still for so long has lost more than this
_LOOK_SECONDS = 2.0
_SQUEUE_SECONDS = 60


@dataclass(frozen=True)
class Holder:
    """Who trains a run: a process of a machine, and the job and its start where SLURM runs it.

    ``machine`` names what process ids are counted in: a boot of a kernel and a namespace; ``began`` is when the kernel
    says that the process began, which another one of the same id does not share.
    """

    host: str = "an unknown host"
    pid: int = 0
    machine: str = ""
    began: str = ""
    job: str | None = None
    start: int = 0
    token: str = ""

    @classmethod
    def here(cls) -> Holder:
        return cls(
            socket.gethostname(),
            os.getpid(),
            _machine(),
            _began(os.getpid()) or "",
            os.environ.get("SLURM_JOB_ID"),
            fence.starts(),
            secrets.token_hex(8),
        )

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


class Owner:
    """This process, while it owns a run: use it in a ``with``, which gives the run free."""

    def __init__(self, run: Path, holder: Holder, made: bool) -> None:
        self._run, self._file, self._holder, self._made = run, run / OWNER, holder, made
        self._descriptor = os.open(self._file, os.O_RDONLY)  # beats go to this very file, whatever takes its name
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="owner", daemon=True)
        self._thread.start()

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self._descriptor)
        with contextlib.suppress(OSError):
            if _read(self._file) == self._holder:
                self._file.unlink()
            if self._made:
                self._run.rmdir()  # where nothing came of the run

    @property
    def token(self) -> str:
        """What tells this owner from any other one, of this process too."""
        return self._holder.token

    def check(self) -> None:
        """Raises TrainingError where another process has taken this run over."""
        for pause in (1.0, None):  # whoever takes it over by mistake puts it back at once
            found = _read(self._file)
            if found == self._holder:
                return
            if pause:
                time.sleep(pause)
        who = f"{found} has taken this run over" if found else "this process's name is gone from it"
        raise TrainingError(f"{self._file}: {who}; this one stops, and what it did since its last checkpoint is lost")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # `check` tells, before anything is published
                os.utime(self._descriptor)


def take(run: Path) -> Owner:
    """Make this process the run's owner; makes the folder where there is none.

    Raises ConfigError, naming the owner, where there is one that lives; it may be watched for a minute to find out.
    """
    made = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    file, own = run / OWNER, Holder.here()
    for _ in range(3):  # each time another one may be faster
        publish_json(file, asdict(own), first=True)
        found = _read(file)
        if found == own:
            return Owner(run, own, made)
        if found is not None and not _is_gone(file, found):
            break
        if found is not None:
            _remove(file, found, own)
    raise ConfigError(f"{run}: {found or 'another process'} trains here; wait for it, stop it, or give another --run")


def succeed(run: Path, token: str) -> Owner:
    """As `take`, where the owner of this token is known to be gone: its own supervisor, or a peer of it, says so."""
    file, own = run / OWNER, Holder.here()
    found = _read(file)
    if found and found.token == token:
        _remove(file, found, own)
    return take(run)


def holder(run: Path) -> Holder | None:
    """Who trains this run by its folder, or did so and was killed; None where nobody says so."""
    return _read(run / OWNER)


def is_alive(run: Path, found: Holder) -> bool:
    """Whether an owner still lives; it may be watched for a minute."""
    return not _is_gone(run / OWNER, found)


def _read(file: Path) -> Holder | None:
    """The holder that a file names, None where it is absent; one that is damaged names nobody that is known."""
    try:
        found = read_object(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return Holder()
    known = {field.name for field in fields(Holder)}
    return Holder(**{name: value for name, value in found.items() if name in known})


def _is_gone(file: Path, found: Holder) -> bool:
    if found.machine and found.machine == _machine():
        return _began(found.pid) != found.began
    job = os.environ.get("SLURM_JOB_ID")
    if found.job is not None and found.job == job and found.start < fence.starts():
        return True  # SLURM has started our job again; the fence holds what may be left of the earlier start
    if found.job is not None and found.job != job and _left_the_queue(found.job):
        return True
    complain(f"{file}: names {found}; watching for up to {STILL_SECONDS:g} s whether it lives")
    return _stands_still(file)


def _stands_still(file: Path) -> bool:
    first = _time(file)
    until = time.monotonic() + STILL_SECONDS
    while time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        if _time(file) != first:
            return False
    return True


def _time(file: Path) -> int | None:
    try:
        with file.open("rb") as stream:  # to open it makes a file server tell the newest
            return os.fstat(stream.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _remove(file: Path, gone: Holder, own: Holder) -> None:
    """Take the name of one that is gone out of the way, and of no other one: somebody else may be doing the same."""
    aside = file.with_name(f".{file.name}.{own.token}")
    with contextlib.suppress(FileNotFoundError):
        file.rename(aside)
        if _read(aside) != gone:
            with contextlib.suppress(FileExistsError):
                os.link(aside, file)
        aside.unlink()


def _left_the_queue(job: str) -> bool:
    """Whether SLURM says that the job is not there any more; False where it cannot be asked."""
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SQUEUE_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    if done.returncode:
        return "Invalid job id" in done.stderr
    return not done.stdout.strip()


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> str | None:
    """When a process of this machine began, by its kernel's count; None where there is none, or it has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else rest[18]
