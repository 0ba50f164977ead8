"""The fence between two starts of one job: what an earlier start left running must not publish any more.

A node that lost its connection may go on with a job that the scheduler has started again elsewhere. The new start says
so in a file; a process reads it before it publishes anything.
"""

from __future__ import annotations

import os
from pathlib import Path

from laconvnet.files import read_object
from laconvnet.pipeline.errors import TrainingError

FENCE = "LACONVNET_FENCE"  # names the file: a JSON object with the number of the newest start


def starts() -> int:
    """How often the scheduler has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def check() -> None:
    """Raises TrainingError where this job has been started again since this process was."""
    path = os.environ.get(FENCE)
    if not path:
        return
    try:
        newest = read_object(Path(path))["start"]
    except (OSError, ValueError, KeyError):
        return  # no start has written the file yet
    if newest > starts():
        raise TrainingError(f"{path}: this job has been started again (start {newest}); this older one stops here")
