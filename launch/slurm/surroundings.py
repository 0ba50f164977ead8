"""The environment that a launch was typed in, kept from what it submits.

sbatch and srun take options from variables (SBATCH_ACCOUNT, SLURM_NTASKS, ...), and a job's own variables stay with a
shell that runs in it. What a job asks for is to stand in the files alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import fields

from submitit.helpers import clean_env

from laconvnet.launch.profile import Profile

KEPT = ("SLURM_CONF",)  # says which cluster is asked


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Without the variables that sbatch and srun would take their options from."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield


def dropped() -> str | None:
    """A line that names those variables, but for those of a job that this runs in; None where there are none."""
    prefixes = ("SBATCH_", "SRUN_") if "SLURM_JOB_ID" in os.environ else ("SBATCH_", "SRUN_", "SLURM_")
    names = sorted(name for name in os.environ if name.startswith(prefixes) and name not in KEPT)
    if not names:
        return None
    keys = {key.name for key in fields(Profile)}
    meant = [key for name in names if (key := name.partition("_")[2].lower()) in keys]
    instead = f", as {', '.join(dict.fromkeys(meant))}" if meant else ""
    return f"{', '.join(names)}: not passed on to the jobs; what they ask for stands in the cluster's file{instead}"
