"""What runs rest on in the file system they are written to: each promise is tried out, with a second process.

Checkpoints and every record are published by a rename, one launch at a time holds a lock, a failure is recorded by the
first rank that links its file. What another node sees cannot be tried from here; the options that the file system is
mounted with tell of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from laconvnet.launch.doctor import neighbour
from laconvnet.launch.doctor.check import GIB, Check, PlannedRun, State
from laconvnet.launch.doctor.machine import LOW_DISK_GIB

MOUNTS = Path("/proc/self/mounts")
NETWORK = (
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "wekafs", "panfs", "orangefs", "afs", "9p"),
    *("virtiofs", "glusterfs"),
)
RENAMES, SKEW_SECONDS, SLOW_SYNC_SECONDS = 100, 2.0, 1.0
# Options with which a lock is one node's own: nfs(5), mount.lustre(8).
OWN_LOCKS = frozenset(("nolock", "local_lock=all", "local_lock=flock", "localflock", "noflock"))


def storage(planned_run: PlannedRun) -> Iterator[Check]:
    """Where runs would be written: which file system that is, and how much room it has."""
    from laconvnet.launch.slurm.capacity import FREE_BYTES  # needs submitit

    place = nearest(planned_run.folder)
    device, kind, options = mounted(place)
    network = kind in NETWORK or kind.startswith("fuse")
    found = f"{place} on {kind} ({device})"
    if not os.access(place, os.W_OK | os.X_OK) or "ro" in options or not place.is_dir():
        yield Check("folder", "error", f"{found}, not writable", "choose another --folder, and runs there")
    elif planned_run.cluster and not network:
        meaning = "all nodes must see it at this path; name a folder of the shared file system"
        yield Check("folder", "warning", f"{found}, a file system of this machine alone", meaning)
    else:
        yield Check("folder", "ok", found)
    free = shutil.disk_usage(place).free
    state: State = "error" if free < FREE_BYTES else "warning" if free / GIB < LOW_DISK_GIB else "ok"
    meaning = f"a launch asks for {FREE_BYTES / GIB:.0f} GiB, a few checkpoints take more" if state != "ok" else ""
    yield Check("disk", state, f"{free / GIB:.1f} GiB free at {place}", meaning)


def rename(planned_run: PlannedRun) -> Iterator[Check]:
    """A file renamed over another is seen whole at every moment; a folder appears at once, never over another."""
    with _scratch(planned_run) as place, _Neighbour() as other:
        file = place / "file"
        file.write_text("a" * 4096)
        other.ask(f"watch {file}")
        for number in range(RENAMES):
            new = place / "new"
            new.write_text("ab"[number % 2] * 4096)
            new.replace(file)
        (place / "file.stop").touch()
        reads, missing, torn, last = other.answer().split(" ")
        broken = []
        if int(missing) or int(torn):
            broken.append(f"of {reads} reads {missing} found no file and {torn} not a whole one")
        if last != "ab"[(RENAMES - 1) % 2]:
            broken.append("another process still read the old file after the last rename")
        meaning = "checkpoints and records would be seen half-written; use another file system" if broken else ""
        found = "; ".join(broken) or f"replaces a file at once: {RENAMES} times, {reads} reads of another process"
        yield Check("rename of a file", "error" if broken else "ok", found, meaning)

        partial, final = place / "partial", place / "final"
        partial.mkdir()
        (partial / "state").write_text("1")
        partial.rename(final)
        seen = other.ask(f"look {place}").split()
        whole = other.ask(f"look {final}") == "state"
        again = place / "again"
        again.mkdir()
        try:
            again.rename(final)
            over = True
        except OSError:
            over = False
        broken = [] if whole and "partial" not in seen else ["another process does not see it under its new name"]
        broken += ["it replaces a folder that holds files"] if over else []
        found = "; ".join(broken) or "is seen at once by another process, and never replaces one that holds files"
        meaning = "a checkpoint is published by it; use another file system" if broken else ""
        yield Check("rename of a folder", "error" if broken else "ok", found, meaning)


def flock(planned_run: PlannedRun) -> Iterator[Check]:
    """A lock that is held keeps another process out, and lets it in afterwards."""
    kind, options = mounted(nearest(planned_run.folder))[1:]
    with _scratch(planned_run) as place, _Neighbour() as other:
        file = place / "lock"
        with file.open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            during = other.ask(f"lock {file}")
        after = other.ask(f"lock {file}")
    own = OWN_LOCKS & options
    if during != "refused":
        meaning = "do not launch the same stages twice: the second launch would not be kept out"
        yield Check("flock", "error", "does not keep another process out", meaning)
    elif after != "taken":
        yield Check("flock", "error", "stays held after its file is closed", "a launch would wait for ever")
    elif own:
        meaning = "two nodes would not keep each other out: mount it with locks, or launch from one node only"
        yield Check("flock", "warning", f"is of each node alone: {kind} is mounted with {', '.join(own)}", meaning)
    else:
        yield Check("flock", "ok", "keeps another process out, and lets it in afterwards")


def exclusive(planned_run: PlannedRun) -> Iterator[Check]:
    """Of several that create one file exclusively, one succeeds (as temporary names need)."""
    with _scratch(planned_run) as place, _Neighbour() as other:
        answers = [other.ask(f"create {place / 'one'}")]
        answers.append(neighbour.create(str(place / "one")))
        answers.append(other.ask(f"create {place / 'one'}"))
    good = answers == ["created", "exists", "exists"]
    found = "one of several creates it" if good else f"asked three times, it was {', '.join(answers)}"
    meaning = "" if good else "two processes would write one temporary file; use another file system"
    yield Check("exclusive create", "ok" if good else "error", found, meaning)


def link(planned_run: PlannedRun) -> Iterator[Check]:
    """A hard link gives a file a second name unless that is taken: the first failure of a job is kept by it."""
    with _scratch(planned_run) as place:
        for name in ("first", "second"):
            (place / name).write_text(name)
        try:
            os.link(place / "first", place / "record")
        except OSError as error:
            meaning = "FAILED.json could not be written; use another file system"
            yield Check("hard link", "error", f"cannot be made: {error.strerror}", meaning)
            return
        with contextlib.suppress(FileExistsError):
            os.link(place / "second", place / "record")
        kept = (place / "record").read_text() == "first"
    found = "keeps the first" if kept else "replaces a file of that name"
    meaning = "" if kept else "the cause of a failure would be overwritten by its consequences"
    yield Check("hard link", "ok" if kept else "error", found, meaning)


def sync(planned_run: PlannedRun) -> Iterator[Check]:
    """What is synced is on disk before a checkpoint's rename: its files, then its folder."""
    with _scratch(planned_run) as place:
        for name in ("file", "folder"):
            target = place / "synced" if name == "file" else place
            if name == "file":
                target.write_bytes(bytes(1 << 20))
            begun = time.perf_counter()
            descriptor = os.open(target, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            except OSError as error:
                meaning = "a checkpoint could not be published; use another file system"
                yield Check(f"fsync of a {name}", "error", f"fails: {error.strerror}", meaning)
                continue
            finally:
                os.close(descriptor)
            taken = time.perf_counter() - begun
            slow = taken > SLOW_SYNC_SECONDS
            what = "of 1 MiB " if name == "file" else ""
            meaning = "each checkpoint waits for several" if slow else ""
            yield Check(f"fsync of a {name}", "warning" if slow else "ok", f"{what}{1e3 * taken:.1f} ms", meaning)


def clock(planned_run: PlannedRun) -> Iterator[Check]:
    """The file server's clock, by which ages of logs and checkpoints are told, against this machine's."""
    with _scratch(planned_run) as place:
        before = time.time()
        (place / "now").write_text("now")
        skew = (place / "now").stat().st_mtime - (before + time.time()) / 2
    far = abs(skew) > SKEW_SECONDS
    meaning = "ages of logs are told wrongly, so a job may be ended as hanging: set the clocks (NTP)" if far else ""
    yield Check("clock", "warning" if far else "ok", f"the file system's differs by {abs(skew):.1f} s", meaning)


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def mounted(place: Path) -> tuple[str, str, frozenset[str]]:
    """Device, kind and options of the file system that a path lies on; "unknown" where the system does not tell."""
    best, found = -1, ("unknown", "unknown", frozenset[str]())
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        device, point, kind, options = line.split(" ")[:4]
        point = point.replace("\\040", " ")
        if len(point) >= best and place.resolve().is_relative_to(point):
            best, found = len(point), (device, kind, frozenset(options.split(",")))
    return found


@contextlib.contextmanager
def _scratch(planned_run: PlannedRun) -> Iterator[Path]:
    """A folder for trials where runs would be written; nothing of it stays."""
    with tempfile.TemporaryDirectory(dir=nearest(planned_run.folder), prefix=".doctor-") as name:
        yield Path(name)


class _Neighbour:
    """The process of `launch.doctor.neighbour`."""

    def __enter__(self) -> _Neighbour:
        command = [sys.executable, "-S", "-E", neighbour.__file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, line: str) -> str:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        return self.answer()

    def answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().rstrip("\n")
