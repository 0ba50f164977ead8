"""What annotations take in the process that reads them, by the peaks of two sizes, each in a process of its own.

The annotations are made, and there are no images: `laconvnet shards check --annotations-only` reads and plans them as a
build does. The processes that write hold a shard each, however many annotations there are.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from laconvnet.kernels.bench import Row
from laconvnet.pipeline.bench.rows import counted

EACH = 10  # expressions of an image
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


def refcoco(root: Path, images: int) -> Path:
    """An object and a ref for every two expressions."""
    folder = root / "refcoco"
    folder.mkdir()
    refs, annotations = [], []
    for image in range(1, images + 1):
        for number in range(0, EACH, 2):
            id = image * EACH + number
            annotations.append(_annotation(id, image))
            refs.append(_ref(id, image, number))
    pictures = [{"id": n, "file_name": f"{n}.jpg", "width": _SIDE, "height": _SIDE} for n in range(1, images + 1)]
    instances = {"images": pictures, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return root


def _annotation(id: int, image: int) -> dict[str, Any]:
    x, y, w, h = _BOX
    outline = [[x, y, x + w, y, x + w, y + h, x + id % 7, y + h]]
    facts = {"id": id, "image_id": image, "category_id": 1, "iscrowd": 0, "area": w * h}
    return {**facts, "bbox": list(_BOX), "segmentation": outline}


def _ref(id: int, image: int, number: int) -> dict[str, Any]:
    ids = [id, id + 1]
    sentences = [
        {"tokens": _phrase(n).split(), "raw": _phrase(n), "sent": _phrase(n), "sent_id": sent_id}
        for n, sent_id in enumerate(ids, start=number)
    ]
    facts = {"ref_id": id, "ann_id": id, "image_id": image, "category_id": 1, "split": "train"}
    return {**facts, "sent_ids": ids, "file_name": f"{image}_{id}.jpg", "sentences": sentences}


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


MADE: dict[str, Callable[[Path, int], Path]] = {"table": table, "refcoco": refcoco, "visual_genome": visual_genome}


def rows(expressions: int) -> Iterator[Row]:
    """A row a source: the bytes that an expression takes, between a quarter of so many and all; and the peak of all."""
    for name in MADE:
        low, high = (_peak(name, number // EACH) for number in (expressions // 4, expressions))
        more = (expressions - expressions // 4) // EACH * EACH
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
