"""A real SLURM on this machine: munge, MariaDB, slurmdbd, slurmctld, two slurmd nodes with four fake GPUs each and one
without, in a partition of its own.

It needs no systemd and touches nothing outside its folder except Debian's packages, which it installs where it may
(root and a package mirror). Every daemon is a child of this process and dies with it; what a killed run has left all
the same (job steps are not our children) is ended by the next one.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

PACKAGES = ("munge", "mariadb-client-core", "mariadb-server-core", "slurm-client", "slurmctld", "slurmd", "slurmdbd")
PROGRAMS = (
    "munged",
    "mariadbd",
    "mariadb-install-db",
    "my_print_defaults",
    "slurmdbd",
    "slurmctld",
    "slurmd",
    "sbatch",
    "sacctmgr",
)
PREFIX = "laconvnet-slurm-"
NODES = ("127.0.0.1", "127.0.0.2")  # literal addresses, so that a job's first node resolves without a name server
CPU_NODE = "127.0.0.3"
DEADLINE_SECONDS = 90.0

SLURM_CONF = """
ClusterName=testcl
SlurmctldHost=localhost
SlurmUser=root
SlurmctldPort={ctld_port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/munge.sock,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.%n.log
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=3
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
SlurmdTimeout=30
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={dbd_port}
AccountingStoragePass={base}/munge.sock
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes={names} MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
PartitionName=cpu Nodes={cpu_node} MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
MaxArraySize=501
"""
NODE = "NodeName={name} NodeHostname=localhost NodeAddr={name} Port={port} CPUs=8 RealMemory=16000"
SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={base}/munge.sock
DbdHost=localhost
DbdPort={dbd_port}
SlurmUser=root
PidFile={base}/slurmdbd.pid
LogFile={base}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=accounting
"""


class Unavailable(RuntimeError):
    """SLURM cannot be had on this machine; the message says why."""


def install() -> None:
    """Make sure that the packages are there. Raises Unavailable where they are not and may not be installed."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if os.geteuid() != 0:
        raise Unavailable("a SLURM of our own needs root (fake GPU devices, munge)")
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise Unavailable(f"{', '.join(missing)} are not installed and there is no apt-get to install them")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1"]
    command = [*apt, "install", "--yes", "--no-install-recommends", *PACKAGES]
    for attempt in (command, [*apt, "update"], command):  # the index is read only where the first try needs it
        try:
            done = subprocess.run(attempt, env=environment, capture_output=True, text=True, timeout=600, check=False)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{' '.join(attempt)} has not ended in ten minutes") from None
        if done.returncode == 0 and attempt == command:
            return
    message = [line for line in done.stderr.splitlines() if line.strip()]
    raise Unavailable(
        f"the packages {' '.join(PACKAGES)} cannot be installed: {message[-1] if message else 'no reason given'}"
    )


class Cluster:
    """The daemons. `start()` returns when all nodes are idle, `stop()` when nothing of it runs any more."""

    def __init__(self) -> None:
        sweep()
        self.base = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir="/tmp"))  # short: socket paths are
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        # The tests' processes and every job see this cluster and no other.
        self.variables = {
            "SLURM_CONF": str(self.base / "slurm.conf"),
            "PATH": os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")),
        }

    def start(self) -> None:
        """Start everything. Raises Unavailable naming the daemon that did not come up and its last words."""
        self._write()
        base = self.base
        self._daemon(
            "munged", "munged", "--foreground", "--force", f"--key-file={base}/munge.key",
            f"--socket={base}/munge.sock", f"--pid-file={base}/munged.pid", f"--log-file={base}/munged.log",
            f"--seed-file={base}/munge.seed", "--num-threads=4",
        )  # fmt: skip
        self.wait(lambda: (base / "munge.sock").exists(), "munged")
        self.call(
            "mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={base}/sql", "--skip-test-db",
            "--auth-root-authentication-method=normal",
        )  # fmt: skip
        self._daemon(
            "mariadbd", "mariadbd", "--no-defaults", "--user=root", f"--datadir={base}/sql",
            f"--socket={base}/sql.sock", f"--pid-file={base}/sql.pid", f"--port={self.sql_port}",
            "--bind-address=127.0.0.1", f"--init-file={base}/init.sql", "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",
        )  # fmt: skip
        self.wait(lambda: _listens(self.sql_port), "mariadbd")
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self.wait(lambda: _listens(self.dbd_port), "slurmdbd")
        self.call("sacctmgr", "--immediate", "add", "cluster", "testcl")
        self.call("sacctmgr", "--immediate", "add", "account", "lab", "Cluster=testcl")
        self.call("sacctmgr", "--immediate", "add", "user", "root", "Account=lab", "Cluster=testcl")
        self._daemon("slurmctld", "slurmctld", "-D", "-c")
        self.wait(lambda: _listens(self.ctld_port), "slurmctld")
        for node in (*NODES, CPU_NODE):
            self.start_node(node)
        self.wait(lambda: self.states() == {"idle"}, "slurmctld")

    def start_node(self, node: str) -> None:
        self._daemon(node, "slurmd", "-D", "-N", node)

    def resume(self, node: str) -> None:
        """Bring back a node that was set down, unless it came back by itself."""
        state = self.call("sinfo", "--noheader", f"--nodes={node}", "--Node", "--format=%t").split()[0]
        if state.startswith("down"):
            self.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self.wait(lambda: not {"down", "down*"} & self.states(), "slurmctld")

    def states(self) -> set[str]:
        """The states of the nodes as sinfo names them, without its flags."""
        output = self.call("sinfo", "--noheader", "--Node", "--format=%t").split()
        return {state.rstrip("*~#!%$@^-") for state in output}

    def call(self, *command: str) -> str:
        """Standard output of a program that speaks to this cluster. Raises Unavailable with what it said otherwise."""
        environment = {**os.environ, **self.variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise Unavailable(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def wait(self, condition: Callable[[], object], daemon: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            process = self.daemons[daemon]
            if process.poll() is not None or time.monotonic() > deadline:
                state = "is not ready" if process.poll() is None else f"ended with {process.returncode}"
                message = (self.base / f"{daemon}.out").read_text(errors="replace").splitlines()[-5:]
                raise Unavailable(f"{daemon} {state}: {' / '.join(message)}")
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this cluster: the daemons, job steps and what these have started."""
        return _processes(str(self.base))

    def stop(self) -> None:
        """End everything and remove the folder."""
        for name in reversed(list(self.daemons)):
            self.daemons[name].send_signal(signal.SIGKILL if name in (*NODES, CPU_NODE) else signal.SIGTERM)
        _end(self.processes(), patience=5)
        for daemon in self.daemons.values():
            daemon.wait()
        shutil.rmtree(self.base, ignore_errors=True)

    def _write(self) -> None:
        self.sql_port, self.dbd_port, self.ctld_port, *ports = _free_ports(4 + len(NODES))
        base = self.base
        base.chmod(0o755)
        for folder in ("state", "spool", "sql"):
            (base / folder).mkdir()
        _private(base / "munge.key", secrets.token_bytes(128))
        password = secrets.token_hex(8)
        sql = f"CREATE USER slurm@'%' IDENTIFIED BY '{password}'; GRANT ALL ON accounting.* TO slurm@'%';\n"
        (base / "init.sql").write_text(sql.replace("; ", ";\n"))
        for number in range(4):
            os.mknod(base / f"fakegpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        values = {"base": base, "ctld_port": self.ctld_port, "dbd_port": self.dbd_port, "sql_port": self.sql_port}
        values |= {"password": password, "names": ",".join(NODES), "cpu_node": CPU_NODE}
        nodes = [NODE.format(name=name, port=port) for name, port in zip((*NODES, CPU_NODE), ports, strict=True)]
        values["nodes"] = "\n".join([*(f"{node} Gres=gpu:4" for node in nodes[:-1]), nodes[-1]])
        (base / "slurm.conf").write_text(SLURM_CONF.format(**values))
        (base / "gres.conf").write_text(f"NodeName={','.join(NODES)} Name=gpu File={base}/fakegpu[0-3]\n")
        _private(base / "slurmdbd.conf", SLURMDBD_CONF.format(**values).encode())

    def _daemon(self, name: str, *command: str) -> None:
        with (self.base / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                env={**os.environ, **self.variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )


def sweep() -> None:
    """End and remove what killed runs have left: clusters whose test process is gone."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if not (owner.isdigit() and psutil.pid_exists(int(owner))):
            _end(_processes(str(folder)), patience=0)
            shutil.rmtree(folder, ignore_errors=True)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _processes(folder: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            mentioned = folder in " ".join(process.cmdline()) or folder in process.environ().get("SLURM_CONF", "")
        except (psutil.Error, OSError):
            continue
        if mentioned and process.pid not in (os.getpid(), os.getppid()):
            found.append(process)
    return found


def _end(processes: Sequence[psutil.Process], patience: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        _kill(process)
    psutil.wait_procs(alive, timeout=10)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _private(file: Path, content: bytes) -> None:
    file.touch(mode=0o600)
    file.write_bytes(content)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(count: int) -> list[int]:
    """Ports below the ephemeral range, so that none of a test's own connections takes one meanwhile."""
    found: list[int] = []
    for port in range(17800, 30000):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise Unavailable("no free ports between 17800 and 30000")
