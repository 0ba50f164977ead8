"""A real object store on this machine: OpenStack Swift with its S3 API, in an environment of its own under build/."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PLACE = HERE.parents[2] / "build" / "swift"
PACKAGES = ("swift==2.38.3", "pyeclib==1.8.0", "setuptools<80")
ACCOUNT = {"AWS_ACCESS_KEY_ID": "test:tester", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


class Unavailable(Exception):
    """There is no Swift here, and why."""


def install() -> Path:
    """The Python of an environment that has Swift, made once. Raises Unavailable where it cannot be had."""
    PLACE.parent.mkdir(exist_ok=True)
    with PLACE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several workers, one installs
        return _installed()


def _installed() -> Path:
    python = PLACE / "bin" / "python"
    ready = PLACE / ".ready"
    if not ready.exists():
        shutil.rmtree(PLACE, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", PLACE], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--progress-bar", "off", *PACKAGES]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        except subprocess.TimeoutExpired:
            raise Unavailable("Swift cannot be installed: pip has not ended in ten minutes") from None
        if done.returncode:
            raise Unavailable(f"Swift cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
        ready.touch()
    return python


class Swift:
    """The store; ``variables`` are what a client needs to reach it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.variables = {**ACCOUNT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        command = [str(install()), "-W", "ignore", str(HERE / "swift_server.py"), str(folder), str(port)]
        self._log = (folder.parent / "swift.log").open("w+")
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, text=True, env={**os.environ, "PYTHONPATH": ""}
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            self.close()
            self._log.seek(0)
            raise RuntimeError(f"Swift did not start:\n{self._log.read()}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
