"""What the hardware counted in our kernels, by ncu: a line a kernel and counter, as CSV.

python -m tests.gpu_run.counters NCU
"""

from __future__ import annotations

import os
import subprocess
import sys

KERNELS = "regex:gather|grad_filters|laconv|norm"
LAUNCHES = "60"  # that are looked at, at most
# Of names in one row the first that this ncu knows: they change with chip and version.
METRICS = (
    ("gpu__time_duration.sum",),
    ("dram__bytes_read.sum",),
    ("dram__bytes_write.sum",),
    ("sm__throughput.avg.pct_of_peak_sustained_elapsed",),
    (
        "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
        "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active",
        "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
    ),
    ("sm__warps_active.avg.pct_of_peak_sustained_active",),
    ("smsp__issue_active.avg.pct_of_peak_sustained_active",),
    ("smsp__inst_executed.sum",),
    ("l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",),
)
_QUERY_SECONDS = 10.0


def known(listed: str) -> list[str]:
    """What to ask for of METRICS, by what `ncu --query-metrics` lists; all first choices where it lists nothing."""
    names = {line.split()[0] for line in listed.splitlines() if line.strip()}
    found = [next((name for name in row if name.partition(".")[0] in names), None) for row in METRICS]
    return [name for name in found if name] or [row[0] for row in METRICS]


def listed(ncu: str) -> str:
    """The metrics of this machine's GPU; nothing where ncu does not tell in time."""
    try:
        command = [ncu, "--query-metrics"]
        return subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def main(ncu: str) -> None:
    """Becomes ncu. Clocks are left as they are."""
    options = ["--csv", "--clock-control", "none", "--profile-from-start", "off", "--launch-count", LAUNCHES]
    which = ["--kernel-name", KERNELS, "--metrics", ",".join(known(listed(ncu)))]
    os.execv(ncu, [ncu, *options, *which, sys.executable, "-m", "tests.gpu_run.launches", "cuda"])


if __name__ == "__main__":
    main(sys.argv[1])
