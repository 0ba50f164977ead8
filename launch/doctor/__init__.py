"""What this machine has and what of it the pipeline would use: one check a row, each naming the exact error it met.

Imports of foreign packages happen in a process of their own (`launch.doctor.apart`): one that aborts, hangs or prints
does not take the other checks with it. Nothing is compiled, built or downloaded.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from laconvnet.launch.doctor import apart, data, folder, machine, network, slurm
from laconvnet.launch.doctor.check import PlannedRun, Probe, checked

# Made in this process: none of them imports what could end it.
HERE: dict[str, Probe] = {
    "python": machine.python,
    "cores": machine.processors,
    "memory": machine.memory,
    "shared memory": machine.shared_memory,
    "open files": machine.open_files,
    "disk temporary": machine.temporary,
    "folder": folder.storage,
    "rename": folder.rename,
    "flock": folder.flock,
    "exclusive create": folder.exclusive,
    "hard link": folder.link,
    "fsync": folder.sync,
    "clock": folder.clock,
    "ports": network.ports,
    "rendezvous": network.rendezvous,
    "slurm": slurm.commands,
    "cluster": slurm.cluster,
    "c++ compiler": machine.compiler,
}


def doctor(planned_run: PlannedRun) -> list[dict[str, str]]:
    """Every check as `name`, `state`, `found`, `meaning`, in a fixed order.

    Never raises: a probe that does becomes a check in error, with what it raised.
    """
    with ThreadPoolExecutor() as pool:
        imports = [pool.submit(apart.in_process, group) for group in apart.GROUPS]
        here = [check for name, probe in HERE.items() for check in checked(name, probe, planned_run)]
        planned = checked("data", data.planned, planned_run)
        rows = here + [check for future in imports for check in future.result()] + planned
    return [asdict(check) for check in rows]
