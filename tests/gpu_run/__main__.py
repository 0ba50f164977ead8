"""`python -m tests.gpu_run`: see tests/gpu.sh."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.gpu_run import carried, parts
from tests.gpu_run.runner import FAILED, LOG, Outcome, Runner
from tests.gpu_run.summary import table

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = "gpu.txt"
SECONDS = 540.0
_SEES = """
import sys, torch
print("torch", torch.__version__, "CUDA", torch.version.cuda, flush=True)
sys.exit(not torch.cuda.is_available())
"""


def main(argv: list[str]) -> int:
    """0 where no part failed, 1 where one did or there is no GPU, 128 and the signal's number where one ended it."""
    line = argparse.ArgumentParser(prog="tests/gpu.sh", description="Everything that needs a GPU, in minutes.")
    line.add_argument("--seconds", type=float, default=os.environ.get("SECONDS_IN_ALL") or str(SECONDS))
    line.add_argument("--dry-run", action="store_true", default=bool(os.environ.get("DRY")))
    given = line.parse_args(argv)
    folder = Path(os.environ.get("OUT") or "runs").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in (parts.MACHINE, parts.PROFILE, parts.NCU, parts.TESTS, LOG, SUMMARY):
        (folder / name).unlink(missing_ok=True)
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as place:
        names = carried.unpack(carried.WHEELS, Path(place))
        print(f"carried along: {', '.join(names) or 'nothing'}", flush=True)
        return _run(folder, given.seconds, given.dry_run, _environment(place, given.dry_run))


def _run(folder: Path, seconds: float, is_dry: bool, environment: dict[str, str]) -> int:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    runner = Runner(folder, seconds, environment, lambda outcomes: _tell(outcomes, folder, since))
    if not is_dry and subprocess.run([sys.executable, "-c", _SEES], env=environment, check=False).returncode:
        print(f"make gpu: {sys.executable} sees no GPU through torch; nothing was run", file=sys.stderr)
        return 1
    ended = runner.run(parts.dry(folder) if is_dry else parts.on_gpu(folder))
    print("\n" + table(runner.outcomes, folder, since), end="", flush=True)
    failed = any(outcome.state == FAILED for outcome in runner.outcomes)
    return 128 + ended if ended else int(failed)


def _environment(place: str, is_dry: bool) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"), place)))
    told = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}
    return os.environ | told | ({"CUDA_VISIBLE_DEVICES": ""} if is_dry else {})


def _tell(outcomes: list[Outcome], folder: Path, since: str) -> None:
    """After each part, for a run that is killed tells nothing at its end."""
    last = outcomes[-1]
    print(f"{last.name}: {last.state}{f': {last.why}' if last.why else ''} ({last.seconds:.0f} s)", flush=True)
    partial = folder / f".{SUMMARY}"
    partial.write_text(table(outcomes, folder, since))
    partial.replace(folder / SUMMARY)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("make gpu: interrupted before the first part", file=sys.stderr)
        sys.exit(130)
