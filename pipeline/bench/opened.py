"""The files that ranks open until their first step is done: a small run of two, watched from inside.

Python tells an audit hook of every file that it opens, modules and mapped tables among them; shared libraries are
found in the process's map of its memory. `python -m laconvnet.pipeline.bench.opened` is one such rank.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laconvnet import python_path
from laconvnet.files import read_json

SAMPLES, RANKS = 64, 2
SECONDS = 300
KINDS = ("modules", "libraries", "manifest", "shards", "run folder", "other files")
_CONFIG = """
data: {folder: %s, size: 64, words: 12, batch: 8, threads: 1}
model:
  preset: tiny
  heads: {anchors: {stride: 8, sizes: [[9, 9], [13, 13], [18, 18]]}}
schedule: {epochs: 0.125, warmup: 0}
engine: {precision: fp32}
"""
Row = dict[str, Any]


def rows(world: int) -> Iterator[Row]:
    """Files and bytes of each kind a rank, from a run of two; and the sum over so many ranks."""
    from laconvnet.pipeline.bench.rows import counted  # brings torch, whose files a rank is to open after the hook

    ranks = watched()
    for kind in KINDS:
        opens, files, size = (max(found[kind][key] for found in ranks) for key in ("opens", "files", "bytes"))
        note = f"{world} ranks: {world * opens:,} opens, {world * size / 1e9:,.1f} GB"
        for measure, value, unit in (
            ("opened by a rank", opens, "opens"),
            ("different files of a rank", files, "files"),
            ("bytes of those files", size / 1e6, "MB"),
        ):
            yield counted(kind, measure, value, unit, note=note)


def watched() -> list[dict[str, dict[str, int]]]:
    """By rank: opens, files and bytes of each kind; raises RuntimeError where the run fails."""
    from laconvnet.pipeline.bench.made import images, made_set

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "set").mkdir()
        made_set(folder / "set", images(4, 96, 64), SAMPLES, 96, 64)
        (folder / "config.yaml").write_text(_CONFIG % (folder / "set"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        begun = []
        try:
            for rank in range(RANKS):
                variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "MASTER_PORT": port}
                variables |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
                with (folder / f"log{rank}").open("wb") as log:
                    begun.append(
                        subprocess.Popen(
                            [sys.executable, "-m", "laconvnet.pipeline.bench.opened", str(folder)],
                            env=os.environ | variables,
                            stdout=log,
                            stderr=log,
                        )
                    )
            for rank, process in enumerate(begun):
                if process.wait(SECONDS):
                    said = (folder / f"log{rank}").read_text(errors="replace").strip().splitlines() or ["nothing"]
                    raise RuntimeError(f"rank {rank} of the small run ended with {process.returncode}: {said[-1]}")
        finally:
            for process in begun:
                process.kill()
                process.wait()
        return [read_json(folder / f"rank{rank}.json") for rank in range(RANKS)]


def main(folder: Path) -> None:
    """Train as one rank and write down which files that opened."""
    opens: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # (path, mode, flags); a path may be a descriptor that is open already
        if event == "open" and isinstance(arguments[0], str | bytes) and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            opens.append(os.fsdecode(arguments[0]))

    sys.addaudithook(hook)
    from laconvnet.pipeline import config
    from laconvnet.pipeline.training.loop import train

    train(config.load(folder / "config.yaml"), folder / "run")
    seen = [path for path in map(os.path.abspath, opens) if os.path.isfile(path)]
    found = {kind: {"opens": 0, "files": 0, "bytes": 0} for kind in KINDS}
    for path in seen:
        found[kind_of(path, folder)]["opens"] += 1
    found["libraries"]["opens"] = len(libraries())
    for path in {*seen, *libraries()}:
        kind = found[kind_of(path, folder)]
        kind["files"] += 1
        kind["bytes"] += os.path.getsize(path)
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))


def libraries() -> set[str]:
    """The shared libraries in this process's memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {parts[5] for line in lines if len(parts := line.split(maxsplit=5)) == 6}
    return {path for path in paths if ".so" in Path(path).name and os.path.isfile(path)}


def kind_of(path: str, folder: Path) -> str:
    place = Path(path)
    if place.is_relative_to(folder / "run"):
        return "run folder"
    if place.suffix in (".parquet", ".arrow"):
        return "manifest"
    if place.suffix == ".tar":
        return "shards"
    if ".so" in place.name:
        return "libraries"
    return "modules" if place.suffix in (".py", ".pyc") else "other files"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
