"""Generated images of coloured shapes in the original layouts of REFER, CLEVR and Visual Genome.

Small enough to learn on two CPU cores, and written as the published files are, so that a demonstration takes the same
path as real data: expressions, masks, questions, scene graphs, held-out splits and images that two data sets share.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
from collections.abc import Iterator
from pathlib import Path

from laconvnet.files import publishing_folder, read_object, remove_leftovers
from laconvnet.progress import Progress
from laconvnet.shards.errors import InputError
from laconvnet.shards.sources.generated import MARK
from laconvnet.shards.synthetic.layouts import clevr, refer, visual_genome

__all__ = ["generate"]

VERSION = 1  # of images and texts: another version of this code writes other bytes
RECEIPT = "generated.json"
_MARKED = '{"by": "laconvnet shards generate", "what": "coloured shapes, in the layout of another data set"}\n'

_LIMITS = {"pictures": (1, 900_000), "size": (32, 1024), "questions_per_picture": (1, 16)}
_FEWEST = 8


def generate(
    out: Path,
    *,
    pictures: int = 8000,
    size: int = 64,
    seed: int = 0,
    questions_per_picture: int = 4,
    progress: bool = True,
) -> dict[str, int]:
    """Write the data sets under `out`; returns how many images, expressions, questions and the like they hold.

    images is the number of training images of the RefCOCO family and of CLEVR; each of val, testA and testB
    (CLEVR: val, test) has a tenth of it, at least 8, and Visual Genome has half of it, at least 8.
    size is the side of an image in pixels. The same arguments give the same bytes.

    A combination of colour and shape in `scene.HELD_OUT` occurs in the family's testB and CLEVR's test alone, and in
    those images of Visual Genome that are images of testB.

    The files appear under `out` all at once, when the last one is written. A folder generated earlier with the same
    arguments is left as it is. Raises InputError for a value out of range, for a folder generated with other
    arguments and for one that holds anything else.
    """
    options = {"pictures": pictures, "size": size, "seed": seed, "questions_per_picture": questions_per_picture}
    _check(options)
    counts = _earlier(out, options)
    if counts is not None:
        return counts
    held_out = max(_FEWEST, pictures // 10)
    family = {"train": pictures, "val": held_out, "testA": held_out, "testB": held_out}
    split = {"train": pictures, "val": held_out, "test": held_out}
    genome = max(_FEWEST, pictures // 2)
    total = sum(family.values()) + sum(split.values()) + genome
    with (
        _uncollected(),
        _published(out) as root,
        Progress(total=total, unit="image", desc=out.name, disable=not progress) as bar,
    ):
        shared, counts = refer.write(root, family, size, seed, bar.update)
        counts |= clevr.write(root, split, size, seed, questions_per_picture, bar.update)
        counts |= visual_genome.write(root, genome, size, seed, shared, bar.update)
        for layout in ("refer", "clevr", "visual_genome"):
            (root / layout / MARK).write_text(_MARKED)
        (root / RECEIPT).write_text(json.dumps({"version": VERSION, "options": options, "counts": counts}, indent=1))
    return counts


def _check(options: dict[str, int]) -> None:
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"synthetic data: {name} is {value!r}, expected an integer")
        low, high = _LIMITS.get(name, (value, value))
        if not low <= value <= high:
            raise InputError(f"synthetic data: {name} is {value}, expected {low} to {high}")


def _earlier(out: Path, options: dict[str, int]) -> dict[str, int] | None:
    """The counts of an earlier run with the same options; None where there is none."""
    receipt = out / RECEIPT
    if not receipt.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: exists and holds no {RECEIPT}, so it was not generated; name another folder")
        return None
    try:
        earlier = read_object(receipt)
        recorded = {"version": earlier["version"], **earlier["options"]}
        counts: dict[str, int] = dict(earlier["counts"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{receipt}: not a record of a generated folder ({error}); remove {out}") from error
    for name, value in {"version": VERSION, **options}.items():
        if recorded.get(name) != value:
            raise InputError(
                f"{receipt}: {name} is {recorded.get(name)!r}, asked for is {value!r}; "
                f"remove {out} or name another folder"
            )
    return counts


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No search for reference cycles: there are none, and among a million live objects it takes a fifth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _published(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when the block ends well and is removed when it does not.

    What a killed process left there is cleared by the next one; the lock tells the two cases apart.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f".{out.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{out}: another process is generating it now; wait or name another folder") from error
        try:
            remove_leftovers(out.parent, out.name)
            with publishing_folder(out, durable=False) as partial:
                yield partial
        finally:
            Path(lock.name).unlink(missing_ok=True)
