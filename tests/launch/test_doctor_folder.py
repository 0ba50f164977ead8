"""What the doctor finds of a file system and of ports, on broken ones too."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from laconvnet.launch.doctor import folder, neighbour, network
from laconvnet.launch.doctor.check import Check, PlannedRun, Probe, checked
from laconvnet.launch.slurm.cluster import Cluster
from tests.messages import tells

PROBES = (folder.storage, folder.rename, folder.flock, folder.exclusive, folder.link, folder.sync, folder.clock)


def only(probe: Probe, asked: PlannedRun) -> Check:
    (found,) = probe(asked)
    return found


@contextlib.contextmanager
def mount(place: Path, *options: str) -> Iterator[None]:
    """A file system of its own in memory; skips where this user may mount none."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_folder_that_keeps_its_promises(tmp_path: Path) -> None:
    asked = PlannedRun(tmp_path / "runs" / "not" / "yet")
    found = {check.name: check for probe in PROBES for check in probe(asked)}
    names = {"folder", "rename of a file", "rename of a folder", "flock", "exclusive create", "hard link", "clock"}
    assert names | {"disk", "fsync of a file", "fsync of a folder"} == found.keys()
    assert {check.state for name, check in found.items() if name != "disk"} == {"ok"}
    assert found["folder"].found.startswith(f"{tmp_path} on ")
    assert f"{folder.RENAMES} times" in found["rename of a file"].found
    assert not any(tmp_path.iterdir()), "nothing is left behind, and no folder made"


def test_a_full_and_a_read_only_file_system(tmp_path: Path) -> None:
    with mount(tmp_path / "small", "-o", "size=64k"):
        where, disk = folder.storage(PlannedRun(tmp_path / "small"))
        assert where.found == f"{tmp_path / 'small'} on tmpfs (none)"
        assert (disk.state, disk.found) == ("error", f"0.0 GiB free at {tmp_path / 'small'}")
        with contextlib.suppress(OSError), (tmp_path / "small" / "fill").open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        (rename,) = checked("rename", folder.rename, PlannedRun(tmp_path / "small"))
        assert (rename.name, rename.state) == ("rename", "error")
        assert "No space left on device" in rename.found
    with mount(tmp_path / "fixed", "-o", "ro"):
        where, _ = folder.storage(PlannedRun(tmp_path / "fixed" / "runs"))
        assert (where.state, where.found.endswith("not writable")) == ("error", True)
        assert "--folder" in where.meaning
        assert "Read-only file system" in checked("flock", folder.flock, PlannedRun(tmp_path / "fixed"))[0].found


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *asked: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=5 * 2**30))
    where, disk = folder.storage(PlannedRun(tmp_path))
    assert (where.state, "not writable" in where.found) == ("error", True)
    assert (disk.state, disk.found) == ("warning", f"5.0 GiB free at {tmp_path}")


def test_a_local_folder_for_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(folder, "MOUNTS", mounts)
    (tmp_path / "two words").mkdir()
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path}/two\\040words nfs4 rw,local_lock=none 0 0\n")
    site = Cluster()
    where, _ = folder.storage(PlannedRun(tmp_path, cluster=site))
    assert (where.state, "of this machine alone" in where.found) == ("warning", True)
    assert folder.mounted(tmp_path / "two words") == ("server:/x", "nfs4", frozenset(["rw", "local_lock=none"]))
    where, _ = folder.storage(PlannedRun(tmp_path / "two words" / "runs", cluster=site))
    assert where.state == "ok"
    assert only(folder.flock, PlannedRun(tmp_path / "two words")).state == "ok"
    mounts.write_text(f"server:/x {tmp_path} nfs rw,nolock 0 0\n")
    lock = only(folder.flock, PlannedRun(tmp_path))
    assert (lock.state, lock.found) == ("warning", "is of each node alone: nfs is mounted with nolock")


def test_a_rename_that_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(self: Path, target: Path) -> Path:
        target.unlink(missing_ok=True)
        time.sleep(0.005)
        shutil.copy(self, target)
        return target

    monkeypatch.setattr(Path, "replace", copied)
    monkeypatch.setattr(folder, "RENAMES", 20)
    file, _ = folder.rename(PlannedRun(tmp_path))
    assert file.state == "error"
    assert "found no file" in file.found
    assert "half-written" in file.meaning


def test_a_folder_that_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def over(self: Path, target: Path) -> Path:
        shutil.rmtree(target, ignore_errors=True)
        os.rename(self, target)
        return target

    monkeypatch.setattr(Path, "rename", over)
    _, whole = folder.rename(PlannedRun(tmp_path))
    assert (whole.state, whole.found) == ("error", "it replaces a folder that holds files")
    monkeypatch.setattr(Path, "rename", lambda self, target: shutil.copytree(self, target))
    _, whole = folder.rename(PlannedRun(tmp_path))
    assert "another process does not see it under its new name" in whole.found


def test_locks_that_exclude_nobody_or_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda stream, how: None)
    lock = only(folder.flock, PlannedRun(tmp_path))
    assert (lock.state, lock.found) == ("error", "does not keep another process out")
    monkeypatch.undo()
    held: list[Any] = []

    def kept(stream: Any, how: int) -> None:
        held.append(os.dup(stream.fileno()))
        real(stream, how)

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", kept)
    lock = only(folder.flock, PlannedRun(tmp_path))
    os.close(held[0])
    assert (lock.state, lock.found) == ("error", "stays held after its file is closed")


def test_other_promises_that_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = PlannedRun(tmp_path)
    monkeypatch.setattr(neighbour, "create", lambda path: "created")
    found = only(folder.exclusive, asked)
    assert (found.state, found.found) == ("error", "asked three times, it was created, created, exists")

    def forbidden(*paths: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", forbidden)
    found = only(folder.link, asked)
    assert (found.state, found.found) == ("error", "cannot be made: Operation not permitted")
    monkeypatch.setattr(os, "link", lambda source, target: shutil.copy(source, target))
    assert only(folder.link, asked).found == "replaces a file of that name"

    def invalid(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", invalid)
    file, whole = folder.sync(asked)
    assert (file.name, file.state) == ("fsync of a file", "ok")
    assert (whole.name, whole.state, whole.found) == ("fsync of a folder", "error", "fails: Invalid argument")
    assert list(tmp_path.iterdir()) == []


def test_a_server_with_another_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 90)
    found = only(folder.clock, PlannedRun(tmp_path))
    assert found.state == "warning"
    assert any(f"differs by {seconds:.1f} s" in found.found for seconds in (89.9, 90.0, 90.1, 89.8))
    assert "NTP" in found.meaning


def free_ports(count: int) -> list[socket.socket]:
    """Sockets that hold a port each, nobody listening behind them for what connects."""
    held = []
    for _ in range(count):
        one = socket.socket()
        one.bind(("", 0))
        one.listen(1)
        held.append(one)
    return held


def test_all_ports_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    held = free_ports(1)
    port = held[0].getsockname()[1]
    monkeypatch.setattr(network, "PORTS", range(port, port + 1))
    found = only(network.ports, PlannedRun())
    assert found.state == "error"
    assert tells(found.found, "none", f"{port}-{port}", "127.0.0.1")
    held[0].close()
    monkeypatch.setattr(network, "lowest_ephemeral", lambda: 60999)
    found = only(network.ports, PlannedRun())
    assert (found.state, found.found) == ("ok", f"{port} of {port}-{port} was bound and reached at 127.0.0.1")


def test_ports_that_the_system_lends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lent = tmp_path / "range"
    monkeypatch.setattr(network, "EPHEMERAL", lent)
    assert network.lowest_ephemeral() is None
    lent.write_text("15000\t60999\n")
    found = only(network.ports, PlannedRun())
    assert (found.state, "lends ports from 15000 on" in found.found) == ("warning", True)
    lent.write_text("32768\t60999\n")
    assert only(network.ports, PlannedRun()).state == "ok"


@pytest.mark.parametrize(("cluster", "state"), [(None, "warning"), (Cluster(), "error")])
def test_the_name_of_this_node(cluster: Cluster | None, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*asked: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    asked = PlannedRun(cluster=cluster)
    monkeypatch.setenv("SLURMD_NODENAME", "node-7")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = only(network.rendezvous, asked)
    assert (found.state, found.found) == (state, "node-7: Name or service not known")
    # An address for documentation (RFC 5737): no interface here has it, and nothing answers.
    monkeypatch.setattr(network, "_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked: [(0, 0, 0, "", ("192.0.2.1", 0))])
    monkeypatch.setattr(network, "_reaches", lambda *asked: False)
    found = only(network.rendezvous, asked)
    assert (found.state, "192.0.2.1, which cannot be bound and reached" in found.found) == (state, True)
    monkeypatch.undo()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked: [(0, 0, 0, "", ("127.0.1.1", 0))])
    monkeypatch.setattr(network, "meet", lambda address: 12000)
    found = only(network.rendezvous, asked)
    assert found.state == ("warning" if cluster else "ok")
    assert ("GLOO_SOCKET_IFNAME" in found.meaning) == (cluster is not None)
