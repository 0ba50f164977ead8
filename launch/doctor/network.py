"""Whether ranks could meet: rank 0 listens on a port that all of them know, at the address they are given."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from laconvnet.launch.doctor.check import Check, PlannedRun, State
from laconvnet.launch.ports import PORTS

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
HERE = "127.0.0.1"  # the address of rank 0 where all ranks are on one node; else that node's name
_SECONDS = 3.0


def ports(planned_run: PlannedRun) -> Iterator[Check]:
    """A port of those that jobs choose from can be bound and reached from this machine."""
    port = meet(HERE)
    ports = f"{PORTS.start}-{PORTS.stop - 1}"
    if port is None:
        meaning = "ranks could not meet: end what listens there, or lift the firewall of the loopback interface"
        yield Check("ports", "error", f"none of {ports} can be bound and reached at {HERE}", meaning)
        return
    low = lowest_ephemeral()
    if low is not None and low < PORTS.stop:
        meaning = "a passing connection may hold the port that a job has chosen; it then tries another (retries)"
        yield Check("ports", "warning", f"{port} of {ports} works, but the system lends ports from {low} on", meaning)
    else:
        yield Check("ports", "ok", f"{port} of {ports} was bound and reached at {HERE}")


def rendezvous(planned_run: PlannedRun) -> Iterator[Check]:
    """The name that ranks of several nodes would be given for this one if rank 0 were here."""
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    needed = planned_run.cluster is not None
    state: State = "error" if needed else "warning"
    try:
        address = str(socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        meaning = "ranks of several nodes could not meet here: give it an address in DNS or /etc/hosts"
        yield Check("rendezvous", state, f"{name}: {error.strerror}", meaning)
        return
    if meet(address) is None:
        meaning = "ranks of several nodes could not meet here: its address must be of an interface of this machine"
        yield Check("rendezvous", state, f"{name} is {address}, which cannot be bound and reached", meaning)
    elif ipaddress.ip_address(address).is_loopback and needed:
        meaning = "gloo and NCCL may announce that to other nodes: set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        yield Check("rendezvous", "warning", f"{name} is {address}, of this machine alone", meaning)
    else:
        yield Check("rendezvous", "ok", f"{name} is {address}", "from here; a firewall between nodes shows only there")


def meet(address: str) -> int | None:
    """The first port of `PORTS`, from a random one on, that a listener here is reached at by this address."""
    start = secrets.randbelow(len(PORTS))
    for number in range(len(PORTS)):
        port = PORTS[(start + number) % len(PORTS)]
        with socket.socket() as listener:
            # As the store does: a port that a job has just left is free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("", port))
                listener.listen(1)
            except OSError:
                continue
            return port if _reaches(address, port, listener) else None
    return None


def _reaches(address: str, port: int, listener: socket.socket) -> bool:
    token = secrets.token_bytes(8)
    listener.settimeout(_SECONDS)
    try:
        with socket.create_connection((address, port), timeout=_SECONDS) as caller:
            answering = listener.accept()[0]
            with answering:
                answering.settimeout(_SECONDS)
                caller.sendall(token)
                return answering.recv(8, socket.MSG_WAITALL) == token
    except OSError:
        return False


def lowest_ephemeral() -> int | None:
    """The first port that the system gives to outgoing connections, None where it does not tell."""
    try:
        return int(EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
