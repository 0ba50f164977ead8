"""Why a job of several ranks ended: which task srun lost first, and whether another try could help."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from laconvnet.launch.outcomes import INTERRUPTED

# What the ranks say when a node, a link or a port is at fault and not the stage. Gloo's and NCCL's words for a peer
# that is gone are among them: a rank that was killed, or that failed by itself, is looked for first.
_TRANSIENT = (
    (r"EADDRINUSE|[Aa]ddress already in use", "port", False),
    (r"uncorrectable ECC|device\(s\) is/are busy|device\(s\) unavailable|Xid|fell off the bus", "gpu", True),
    (r"ncclSystemError|ncclRemoteError|ncclInternalError|ncclUnhandledCudaError|NCCL watchdog", "nccl", False),
    (r"Connection (reset|refused|closed)|closed by peer|[Bb]roken pipe|No route to host|unreachable", "net", False),
    (r"DistNetworkError|DistStoreError|Gloo connectFullMesh|[Tt]imed out (after|waiting).*client", "net", False),
    (r"Input/output error|Stale file handle|Transport endpoint is not connected", "files", True),
    (r"Node failure|launch failed|Unable to confirm allocation|Communication connection failure", "node", True),
)  # fmt: skip
_LINE = re.compile(r"srun: error: (\S+): tasks? ([\d,\-]+): (.+?)\s*$")
# Not among them: SIGTERM, by which srun ends the others, and SIGABRT, by which gloo and NCCL end those that lost one.
_SIGNALS = {
    "Killed": "was killed by SIGKILL (out of memory?)",
    "Out Of Memory": "was killed for using more memory than it was given",
    "Segmentation fault": "was killed by SIGSEGV",
    "Bus error": "was killed by SIGBUS (a file it had mapped was cut off, or could not be read)",
    "Illegal instruction": "was killed by SIGILL",
    "Floating point exception": "was killed by SIGFPE",
}


@dataclass(frozen=True)
class Lost:
    """A task as srun reports its end."""

    rank: int
    node: str
    how: str  # srun's words: Killed, Exited with exit code 1, ...

    @property
    def killed(self) -> str | None:
        """The words for a rank that a signal has ended, None for one that left, or that srun asked to."""
        return next((text for word, text in _SIGNALS.items() if self.how.startswith(word)), None)

    @property
    def told_to_stop(self) -> bool:
        """Whether it died of the very signal that asks to save: it had not come so far as to listen."""
        return self.how.startswith("User defined signal 2")

    @property
    def failed(self) -> bool:
        """Whether it left without success, and not because it was told to."""
        return self.how.startswith(("Exited", "Aborted")) and not self.how.endswith(f"code {INTERRUPTED}")


def lost(lines: Sequence[str]) -> list[Lost]:
    """Tasks that ended without success, in the order srun told of them."""
    found: list[Lost] = []
    for line in lines:
        match = _LINE.search(line)
        if match:
            found += [Lost(rank, match[1], match[3]) for rank in _ranks(match[2])]
    return found


def _ranks(text: str) -> Iterator[int]:
    """The numbers of a list such as 0,4-6."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def transient(lines: Sequence[str]) -> tuple[str, bool] | None:
    """What is at fault by these lines if it is not the stage, and whether its node is; None where it is the stage."""
    for pattern, kind, of_node in _TRANSIENT:
        if any(re.search(pattern, line) for line in lines):
            return kind, of_node
    return None
