"""What a killed run of the suite leaves is ended by the next one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm import cluster


def test_a_cluster_without_its_owner_is_ended_and_removed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", ""])
    owner.wait()
    lost = Path(f"/tmp/{cluster.PREFIX}{owner.pid}-test")
    ours = Path(f"/tmp/{cluster.PREFIX}{os.getpid()}-test")
    daemons = []
    try:
        for folder in (lost, ours):
            folder.mkdir()
            variables = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
            daemons.append(subprocess.Popen(["sleep", "600"], env=variables))
        cluster.sweep()
        assert daemons[0].poll() is not None
        assert not lost.exists()
        assert daemons[1].poll() is None
        assert ours.exists()
    finally:
        for daemon in daemons:
            daemon.kill()
            daemon.wait()
        ours.rmdir()


def test_where_it_cannot_be_had_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PROGRAMS", ("no-such-daemon",))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(cluster.Unavailable, match="no-such-daemon are not installed and there is no apt-get"):
        cluster.install()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(cluster.Unavailable, match="needs root"):
        cluster.install()
