"""`laconvnet shards`: raw data sets in, shard sets out, and what is in them."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from operator import length_hint
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.output import rows, show


def add(commands: Any) -> None:
    group = commands.add_parser(
        "shards", help="build and inspect shard sets", description="Raw data sets to shard sets."
    )
    parts = group.add_subparsers(required=True, metavar="COMMAND")
    _add_build(parts)
    _add_sources(parts)
    _add_generate(parts)
    _add_pretrain_set(parts)
    _add_verify(parts)
    _add_info(parts)


def _add_build(parts: Any) -> None:
    command = parts.add_parser(
        "build",
        help="raw files to shards",
        description="Read a data set in its original layout, check every picture and write tars with a manifest. "
        "A build that was stopped goes on where it was; a finished one is left as it is.",
        epilog="laconvnet shards sources tells what each source expects under --root.",
    )
    command.add_argument("source", metavar="SOURCE", help="name of a source, such as refcoco")
    command.add_argument(
        "--root", type=Path, required=True, metavar="DIR", help="folder that the data set's own tools expect"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the shard set")
    command.add_argument("--images", type=Path, metavar="DIR", help="pictures, where they are not under --root")
    command.add_argument("--split", nargs="+", metavar="S", help="only these splits")
    command.add_argument("--partition", metavar="P", help="google, unc or umd, where the RefCOCO family has several")
    command.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes (default: 1); the bytes are the same"
    )
    command.add_argument(
        "--shard-bytes", type=int, default=256 << 20, metavar="N", help="size of a shard (default: 256 MiB)"
    )
    command.add_argument(
        "--task",
        metavar="I/N",
        help="only share I of N of the shards, 1 <= I <= N; several may be built at once, on several machines (rank: "
        "the share of this process among those of its stage; in a stage with `array` write {task}). The same command "
        "without --task then publishes the set",
    )
    command.add_argument("--dry-run", action="store_true", help="count samples, shards and bytes, write nothing")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(command=_build)


def _build(arguments: argparse.Namespace) -> int:
    from laconvnet.shards.build.builder import build, build_task
    from laconvnet.shards.build.plan import plan
    from laconvnet.shards.sets import info
    from laconvnet.shards.sources import get

    share = _share(arguments.task) if arguments.task else None
    source = get(arguments.source)
    samples = source.samples(
        arguments.root, images=arguments.images, splits=arguments.split, partition=arguments.partition
    )
    if arguments.dry_run:
        show(asdict(plan(samples, arguments.shard_bytes)), arguments.json)
        return 0
    options = {"split": arguments.split, "partition": arguments.partition, "shard_bytes": arguments.shard_bytes}
    if share:
        build_task(
            samples,
            arguments.out,
            source=source.name,
            licence=source.licence,
            options=options,
            task=share,
            shard_bytes=arguments.shard_bytes,
            workers=arguments.workers,
        )
        show({"out": str(arguments.out), "task": f"{share[0]}/{share[1]}"}, arguments.json)
        return 0
    build(
        samples,
        arguments.out,
        source=source.name,
        licence=source.licence,
        options=options,
        shard_bytes=arguments.shard_bytes,
        workers=arguments.workers,
        total=length_hint(samples) or None,
    )
    show(info.info(arguments.out), arguments.json)
    return 0


def _share(text: str) -> tuple[int, int]:
    """Share I of N, from the text or from the process's place in its job."""
    from laconvnet.shards.errors import InputError

    if text == "rank":
        return int(os.environ.get("RANK", "0")) + 1, int(os.environ.get("WORLD_SIZE", "1"))
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise InputError(f"--task: got {text!r}, expected I/N with 1 <= I <= N, as in 3/16, or rank")
    return int(number), int(count)


def _add_sources(parts: Any) -> None:
    command = parts.add_parser(
        "sources", help="what can be built", description="What can be built, from which files, under which licence."
    )
    command.add_argument("--json", action="store_true", help="print one JSON object a line")
    command.set_defaults(command=_sources)


def _sources(arguments: argparse.Namespace) -> int:
    from laconvnet.shards.sources import SOURCES

    for number, source in enumerate(SOURCES.values()):
        row = {"name": source.name, "title": source.title, "files": list(source.files), "licence": source.licence}
        if number and not arguments.json:
            print()
        show(row, arguments.json)
    return 0


def _add_generate(parts: Any) -> None:
    command = parts.add_parser(
        "generate",
        help="write a small data set of coloured shapes",
        description="Pictures of coloured shapes with expressions, masks, questions and scene graphs, in the original "
        "layouts of REFER, CLEVR and Visual Genome: for trying the whole road without downloading anything.",
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for refer/, clevr/ and visual_genome/"
    )
    command.add_argument(
        "--pictures", type=int, default=8000, metavar="N", help="training pictures a layout (default: 8000)"
    )
    command.add_argument("--size", type=int, default=64, metavar="N", help="side of a picture in pixels (default: 64)")
    command.add_argument("--questions", type=int, default=4, metavar="N", help="questions a CLEVR picture (default: 4)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another set (default: 0)")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(command=_generate)


def _generate(arguments: argparse.Namespace) -> int:
    from laconvnet.shards.synthetic import generate

    counts = generate(
        arguments.out,
        pictures=arguments.pictures,
        size=arguments.size,
        seed=arguments.seed,
        questions_per_picture=arguments.questions,
    )
    show(counts, arguments.json)
    return 0


def _add_pretrain_set(parts: Any) -> None:
    command = parts.add_parser(
        "pretrain-set",
        help="merge built sets for pretraining",
        description="Merge built sets by weight, without copying them, and leave out every picture of any held-out "
        "split of the excluded sets (by COCO id, Visual Genome's coco_id, file name and picture bytes). What "
        "was left out is listed in excluded.parquet; an overlap that remains is an error.",
    )
    command.add_argument(
        "--inputs",
        nargs="+",
        required=True,
        metavar="DIR[=W]",
        help="built sets; W passes over a set an epoch (default: 1)",
    )
    command.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="sets whose val and test pictures must not occur",
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the merged set")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(command=_pretrain_set)


def _pretrain_set(arguments: argparse.Namespace) -> int:
    from laconvnet.shards.sets import info, merge

    inputs = [_weighted(text) for text in arguments.inputs]
    merge.pretrain_set(inputs, arguments.exclude, arguments.out)
    show(info.info(arguments.out), arguments.json)
    return 0


def _weighted(text: str) -> tuple[Path, float]:
    from laconvnet.shards.errors import InputError

    folder, equals, weight = text.rpartition("=")
    if not equals:
        return Path(text), 1.0
    try:
        return Path(folder), float(weight)
    except ValueError as error:
        raise InputError(f"--inputs: {text!r}: weight {weight!r}: expected a number, as in {folder}=0.5") from error


def _add_verify(parts: Any) -> None:
    command = parts.add_parser(
        "verify",
        help="check a shard set",
        description="Check sizes, indices and references; with --full every byte and picture.",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="a built shard set")
    command.add_argument("--full", action="store_true", help="every checksum, every record, every picture")
    command.add_argument(
        "--against", type=Path, nargs="+", default=[], metavar="DIR", help="sets whose held-out pictures must not occur"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(command=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from laconvnet.shards.sets.verify import verify

    show(verify(arguments.folder, full=arguments.full, against=arguments.against), arguments.json)
    return 0


def _add_info(parts: Any) -> None:
    command = parts.add_parser(
        "info", help="what a shard set holds", description="Counts of a shard set, whole and by split."
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="a built shard set")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(command=_info)


def _info(arguments: argparse.Namespace) -> int:
    from laconvnet.shards.sets.info import info

    counted = info(arguments.folder)
    if arguments.json:
        show(counted, True)
        return 0
    by_split = counted.pop("by_split")
    show(counted, False)
    print()
    rows([{"split": split, **counts} for split, counts in by_split.items()], False)
    return 0
