"""Ports at which the processes of a job meet: each finds the same one by itself."""

from __future__ import annotations

import hashlib
import socket

PORTS = range(12000, 32000)  # below Linux's default ephemeral range (32768-60999), above SLURM's own ports


def master_port(key: str, attempt: int = 0) -> int:
    """A port that every task of a job finds by itself: a function of the job's id and of the attempt."""
    digest = hashlib.sha256(f"{key} {attempt}".encode()).digest()
    return PORTS[int.from_bytes(digest[:8], "big") % len(PORTS)]


def free_port(key: str, first: int) -> int:
    """A port of PORTS that nobody on this machine listens on."""
    for attempt in range(first, first + len(PORTS)):
        port = master_port(key, attempt)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
    raise OSError(f"no free port in {PORTS.start}-{PORTS.stop - 1}")
