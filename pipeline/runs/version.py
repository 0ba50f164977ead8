"""The version of the code that runs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def code_version() -> str | None:
    """`git describe` of the code that runs, None where it does not come from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--tags"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
