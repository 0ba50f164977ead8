"""What annotations take in the process that reads them, by the peaks of two sizes, each in a process of its own.

The annotations are made, and there are no images: `laconvnet shards check --annotations-only` reads and plans them as a
build does. The processes that write hold a shard each, however many annotations there are. A partition of the RefCOCO
family is not among them: its file may have 64 MB, which are some hundred thousand expressions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from laconvnet.kernels.bench import Row
from laconvnet.pipeline.bench.rows import counted

EACH = 10  # expressions of an image: half of the usual number are more than two shards, which a planner may hold
# Of the command alone: what getrusage tells begins with the process that started it.
_SCRIPT = """
import re, sys
from pathlib import Path
from laconvnet.launch import cli
code = cli.main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""
_SIDE = 480
_BOX = (12.5, 40.0, 80.0, 120.25)


def _phrase(number: int) -> str:
    return f"the person number {number} on the left of the car"


def table(root: Path, images: int) -> Path:
    """A CSV; the path to build from."""
    head = "picture,expression,x,y,w,h,image_width,image_height"
    box = ",".join(map(str, _BOX))
    rows = (f"{image}.jpg,{_phrase(n)},{box},{_SIDE},{_SIDE}" for image in range(images) for n in range(EACH))
    return _lines(root / "train.csv", head, rows)


def visual_genome(root: Path, images: int) -> Path:
    """A region for every expression."""
    x, y, w, h = map(int, _BOX)

    def regions(image: int) -> Iterator[dict[str, Any]]:
        for n in range(EACH):
            box = {"x": x, "y": y, "width": w, "height": h}
            yield {"region_id": image * EACH + n, "image_id": image, "phrase": _phrase(n), **box}

    pictures = ({"image_id": n, "width": _SIDE, "height": _SIDE, "url": f"http://x/VG/{n}.jpg"} for n in range(images))
    _array(root / "image_data.json", pictures)
    _array(root / "region_descriptions.json", ({"id": n, "regions": list(regions(n))} for n in range(images)))
    return root


def _array(path: Path, items: Iterator[dict[str, Any]]) -> None:
    with path.open("w") as file:
        for number, item in enumerate(items):
            file.write(("," if number else "[") + json.dumps(item))
        file.write("]")


def _lines(path: Path, head: str, rows: Iterator[str]) -> Path:
    with path.open("w") as file:
        file.write(f"{head}\n")
        file.writelines(f"{row}\n" for row in rows)
    return path


MADE: dict[str, Callable[[Path, int], Path]] = {"table": table, "visual_genome": visual_genome}


def rows(expressions: int) -> Iterator[Row]:
    """A row a source: the bytes that an expression takes, between half of so many and all; and the peak of all."""
    for name in MADE:
        low, high = (_peak(name, number // EACH) for number in (expressions // 2, expressions))
        more = (expressions - expressions // 2) // EACH * EACH
        yield {
            "bench": "shards",
            "source": name,
            "pictures": expressions // EACH,
            "peak_mb": high / 1e6,
            "baseline": None,
            "ratio": None,
            "note": None,
            **counted("annotations", "memory", (high - low) / more, "bytes an expression"),
        }


def _peak(name: str, images: int) -> int:
    """The peak in bytes of a process that reads the annotations of so many images."""
    with tempfile.TemporaryDirectory() as place:
        root = MADE[name](Path(place), images)
        command = [sys.executable, "-c", _SCRIPT, "shards", "check", name, "--root", str(root), "--annotations-only"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: exit code {done.returncode}\n{done.stderr}")
    return 1024 * int(done.stdout.splitlines()[-1])
