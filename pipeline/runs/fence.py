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


def stage() -> Path | None:
    """The folder of the stage, or of the task of its array, whose job this process belongs to."""
    path = os.environ.get(FENCE)
    return Path(path).parents[1] if path else None


def newest(file: Path) -> int | None:
    """The newest start that a fence names, None where none has written it yet.

    Raises TrainingError for one that is damaged, OSError for one that cannot be read: neither says that nobody has.
    """
    try:
        return int(read_object(file)["start"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{file}: does not name the newest start of this job ({error}); expected what its batch script wrote: this "
            "one publishes nothing more"
        ) from error


def check() -> None:
    """Raises TrainingError where this job has been started again since this process was."""
    path = os.environ.get(FENCE)
    last = newest(Path(path)) if path else None
    if last is not None and last > starts():
        raise TrainingError(f"{path}: this job has been started again (start {last}); this older one stops here")
