"""Probes that import foreign packages, in processes of their own: `python -m laconvnet.launch.doctor.apart PROBE ...`.

Probes that need torch share a process, since its import is what takes the time. Each row is written as soon as it is
known: where a probe ends its process, the row says so, and those behind it get another process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

from laconvnet import python_path
from laconvnet.launch.doctor import packages, torches
from laconvnet.launch.doctor.check import Check, PlannedRun, Probe, checked

SECONDS = 120
PROBES: dict[str, Probe] = {
    "torch": torches.torch_and_driver,
    "collectives": torches.collectives,
    "optimizer": torches.optimizer,
    "kernels": packages.kernels,
    "accelerate": packages.accelerate,
    "deepspeed": packages.deepspeed,
    "apex": packages.apex,
    "dali": packages.dali,
}
GROUPS = (("torch", "collectives", "optimizer", "kernels", "accelerate", "deepspeed", "apex"), ("dali",))


def in_process(names: Sequence[str]) -> list[Check]:
    """The rows of these probes, made in as many processes as it takes."""
    rows: list[Check] = []
    left = list(names)
    while left:
        found, done, end = _run(left)
        rows += found
        left = left[done:]
        if left:  # the first of them is what ended the process
            rows.append(Check(left.pop(0), "error", end, "imported by a run, it would end that too"))
    return rows


def _run(names: Sequence[str]) -> tuple[list[Check], int, str]:
    """One process: its rows, how many probes it finished, and how it ended where that is not all of them."""
    command = [sys.executable, "-m", "laconvnet.launch.doctor.apart", *names]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=SECONDS,
            env=os.environ | {"PYTHONPATH": python_path()},
            check=False,
        )
        out, output = done.stdout, [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        end = f"the import ended its process with {done.returncode}: {output[-1].strip() if output else 'no word'}"
    except subprocess.TimeoutExpired as late:
        out, end = late.stdout or b"", f"no answer within {SECONDS} s"
    except OSError as error:
        out, end = b"", f"{type(error).__name__}: {error}"
    finished = [json.loads(line) for line in out.decode(errors="replace").splitlines(keepends=True) if line[-1] == "\n"]
    return [Check(**row) for rows in finished for row in rows], len(finished), end


def main(names: Sequence[str]) -> None:
    """Write a line of rows for each probe."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what imports print, C libraries included, goes to standard error: the answer stands alone
    for name in names:
        rows = [asdict(check) for check in checked(name, PROBES[name], PlannedRun())]
        os.write(answer, json.dumps(rows).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
