"""`laconvnet shards`: raw data sets in, shard sets out, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from operator import length_hint
from pathlib import Path
from typing import Annotated, Any, Literal

from laconvnet.launch import commandline
from laconvnet.launch.commandline import Arg, BuiltSet, Json, JsonLines
from laconvnet.launch.commands.accounts import counted_with_epoch, show_counts, show_published
from laconvnet.launch.commands.output import show
from laconvnet.shards.errors import InputError
from laconvnet.terminal import say


def add(commands: Any) -> None:
    about = "build and inspect shard sets", "Raw data sets to shard sets."
    commandline.group(commands, "shards", *about, build, sources, generate, pretrain_set, verify, info, preview)


def build(
    source: Annotated[str, Arg("name of a source, such as refcoco", "SOURCE")],
    *,
    root: Annotated[Path, Arg("folder that the data set's own tools expect", "DIR")],
    out: Annotated[Path, Arg("folder of the shard set", "DIR")],
    images: Annotated[Path | None, Arg("images, where they are not under --root", "DIR")] = None,
    split: Annotated[Sequence[str] | None, Arg("only these splits", "S")] = None,
    partition: Annotated[str | None, Arg("google, unc or umd, where the RefCOCO family has several", "P")] = None,
    workers: Annotated[int, Arg("processes (default: 1); the bytes are the same", "N")] = 1,
    shard_bytes: Annotated[int, Arg("size of a shard (default: 256 MiB)", "N")] = 256 << 20,
    task: Annotated[
        str | None,
        Arg(
            "only share I of N of the shards, 1 <= I <= N; several may be built at once, on several machines (rank: "
            "the share of this process among those of its stage; in a stage with `array` write {task}). The same "
            "command without --task then publishes the set",
            "I/N",
        ),
    ] = None,
    strict: Annotated[bool, Arg("publish nothing where one entry or image is lost by a fault")] = False,
    at_most_lost: Annotated[
        str | None, Arg("share of each split's images, and of its entries, that may be lost by faults", "SHARE")
    ] = None,
    dry_run: Annotated[bool, Arg("count samples, shards and bytes, write nothing")] = False,
    json: Json = False,
) -> None:
    """Raw files to shards.

    Read a data set in its original layout, check every image and write tars with a manifest. A build that was stopped
    goes on where it was; a finished one is left as it is.

    An entry of the annotations that cannot be used goes to quarantine.parquet with its reason, and the build goes on.
    The ledger tells what became of all entries. Where --strict or --at-most-lost 0.1% finds too many lost, no manifest
    is written, but the shards stay: the same command without it ends quickly.

    laconvnet shards sources tells what each source expects under --root.
    """
    from laconvnet.shards.build import builder as building
    from laconvnet.shards.build.brake import Brake
    from laconvnet.shards.build.plan import plan
    from laconvnet.shards.sets import info as counting
    from laconvnet.shards.sources import get

    share = _share(task) if task else None
    brake = Brake(strict, None if at_most_lost is None else _fraction(at_most_lost))
    origin = get(source)
    samples = origin.samples(root, images=images, splits=split, partition=partition)
    if dry_run:
        show(asdict(plan(samples, shard_bytes)), json)
        return
    options = {"split": split, "partition": partition, "shard_bytes": shard_bytes}
    given: dict[str, Any] = {"source": origin.name, "licence": origin.licence, "options": options}
    given |= {"shard_bytes": shard_bytes, "workers": workers}
    if share:
        building.build_task(samples, out, task=share, **given)
        show({"out": str(out), "task": f"{share[0]}/{share[1]}"}, json)
        return
    building.build(samples, out, total=length_hint(samples) or None, brake=brake, **given)
    show_counts(counting.info(out), json)


def _share(text: str) -> tuple[int, int]:
    """Share I of N, from the text or from the process's place in its job."""
    if text == "rank":
        return int(os.environ.get("RANK", "0")) + 1, int(os.environ.get("WORLD_SIZE", "1"))
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise InputError(f"--task: got {text!r}, expected I/N with 1 <= I <= N, as in 3/16, or rank")
    return int(number), int(count)


def _fraction(text: str) -> float:
    """A share, 0 to 1, of "0.1%" or "0.001"."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"--at-most-lost: got {text!r}, expected a share as 0.1% or 0.001")
    return share


def sources(*, json: JsonLines = False) -> None:
    """What can be built.

    What can be built, from which files, under which licence.
    """
    from laconvnet.shards.sources import SOURCES

    for number, source in enumerate(SOURCES.values()):
        row = {"name": source.name, "title": source.title, "files": list(source.files), "licence": source.licence}
        if number and not json:
            say()
        show(row, json)


def generate(
    *,
    out: Annotated[Path, Arg("folder for refer/, clevr/ and visual_genome/", "DIR")],
    pictures: Annotated[int, Arg("training images a layout", "N")] = 8000,
    size: Annotated[int, Arg("side of an image in pixels", "N")] = 64,
    questions: Annotated[int, Arg("questions a CLEVR image", "N")] = 4,
    seed: Annotated[int, Arg("another seed, another set", "N")] = 0,
    json: Json = False,
) -> None:
    """Write a small data set of coloured shapes.

    Images of coloured shapes with expressions, masks, questions and scene graphs, in the original layouts of REFER,
    CLEVR and Visual Genome: for trying the whole road without downloading anything.
    """
    from laconvnet.shards import synthetic

    counts = synthetic.generate(out, pictures=pictures, size=size, seed=seed, questions_per_picture=questions)
    show(counts, json)


def pretrain_set(
    *,
    inputs: Annotated[Sequence[str], Arg("built sets; W passes over a set an epoch (default: 1)", "DIR[=W]")],
    exclude: Annotated[Sequence[Path], Arg("sets whose val and test images must not occur", "DIR")] = (),
    out: Annotated[Path, Arg("folder of the merged set", "DIR")],
    json: Json = False,
) -> None:
    """Merge built sets for pretraining.

    Merge built sets by weight, without copying them, and leave out every image of any held-out split of the excluded
    sets (by COCO id, Visual Genome's coco_id, file name and image bytes). What was left out is listed in
    excluded.parquet; an overlap that remains is an error.
    """
    from laconvnet.shards.sets import merge

    merge.pretrain_set([_weighted(text) for text in inputs], list(exclude), out)
    show_counts(counted_with_epoch(out), json)


def _weighted(text: str) -> tuple[Path, float]:
    folder, equals, weight = text.rpartition("=")
    if not equals:
        return Path(text), 1.0
    try:
        return Path(folder), float(weight)
    except ValueError as error:
        raise InputError(f"--inputs: {text!r}: weight {weight!r}: expected a number, as in {folder}=0.5") from error


def verify(
    folder: BuiltSet,
    *,
    full: Annotated[bool, Arg("every checksum, every record, every image")] = False,
    against: Annotated[Sequence[Path], Arg("sets whose held-out images must not occur", "DIR")] = (),
    json: Json = False,
) -> None:
    """Check a shard set.

    Check sizes, indices and references, and the ledger against tables and quarantine; with --full every byte and image.
    """
    from laconvnet.shards.sets import verify as checking

    report = checking.verify(folder, full=full, against=against)
    show({name: value for name, value in report.items() if json or name != "published"}, json)
    if not json:
        show_published(report.get("published") or [])


def info(
    folder: BuiltSet,
    *,
    batch: Annotated[
        int | None, Arg("also the steps of an epoch with so many examples a step", "N", at_least=1)
    ] = None,
    plots: Annotated[Path | None, Arg("write distributions by source and split to a page", "FILE.html")] = None,
    json: Json = False,
) -> None:
    """What a shard set holds.

    Counts of a shard set, whole and by split, and the ledger: what became of every entry that was read. Of a merged set
    also the items that each part has in an epoch of training, by its weight.
    """
    show_counts(counted_with_epoch(folder, batch), json)
    if plots is not None:
        from laconvnet.shards.pages.plots import plots as write

        write(folder, plots)


def preview(
    folder: BuiltSet,
    *,
    out: Annotated[Path, Arg("the page to write", "FILE.html")] = Path("preview.html"),
    split: Annotated[str | None, Arg("only examples of this split", "S")] = None,
    source: Annotated[str | None, Arg("only samples of this source", "NAME")] = None,
    size: Annotated[
        Literal["small", "medium", "large"] | None,
        Arg("only regions of this size: COCO's, below 32^2, below 96^2 and more pixels of the stored image"),
    ] = None,
    kind: Annotated[Literal["expression", "question"] | None, Arg("only examples of this kind")] = None,
    text: Annotated[str | None, Arg("only examples whose text holds these words, in any case", "WORDS")] = None,
    number: Annotated[int, Arg("samples on the page, at most", "N", at_least=1)] = 60,
    seed: Annotated[int, Arg("another seed, other samples", "N", at_least=0)] = 0,
    key: Annotated[Sequence[str], Arg("only the samples of these keys", "KEY")] = (),
    json: Json = False,
) -> None:
    """Look at samples of a set.

    One HTML page with some samples: image, boxes, masks, expressions, questions and answers. On it the reader chooses
    among splits, sources, kinds and sizes. It needs nothing beside it and loads nothing.

    The samples are drawn by the seed among all that match; the same command shows the same ones. The size of a region
    is the area of the box around all its boxes.
    """
    from laconvnet.shards.pages.choice import Wanted
    from laconvnet.shards.pages.preview import preview as write

    show(write(folder, out, Wanted(split, source, size, kind, text), tuple(key), number, seed), json)
