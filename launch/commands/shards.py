"""`laconvnet shards`: raw data sets in, shard sets out, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from laconvnet.launch import commandline
from laconvnet.launch.commandline import Arg, BuiltSet, Json, JsonLines
from laconvnet.launch.commands.accounts import account_rows, counted_with_epoch, show_counts, show_published
from laconvnet.launch.commands.output import rows, show
from laconvnet.shards.errors import InputError
from laconvnet.terminal import one_line, say

SourceName = Annotated[str, Arg("name of a source, such as refcoco, or table for one's own data", "SOURCE")]
Root = Annotated[
    Path, Arg("folder that the data set's own tools expect; a table, or its folder; or a URL", "PATH", url=True)
]
Images = Annotated[Path | None, Arg("images, where they are not under --root, or their URL", "DIR", url=True)]
Splits = Annotated[Sequence[str] | None, Arg("only these splits", "S")]
Partition = Annotated[
    str | None,
    Arg(
        "google, unc or umd, where the RefCOCO family has several; of simrec the data set; of visual_genome its parts, "
        "as in phrases+questions",
        "P",
    ),
]


def add(commands: Any) -> None:
    about = "build and inspect shard sets", "Raw data sets to shard sets."
    about_sets = build, check, sources, generate, pretrain_set, verify, info, preview, copy
    commandline.group(commands, "shards", *about, *about_sets)


def build(
    source: SourceName,
    *,
    root: Root,
    out: Annotated[Path, Arg("folder of the shard set", "DIR")],
    images: Images = None,
    split: Splits = None,
    partition: Partition = None,
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
    retry_quarantined: Annotated[
        bool, Arg("of a finished set, try also those lost images again whose files are as they were")
    ] = False,
    dry_run: Annotated[bool, Arg("count samples, shards and bytes, write nothing")] = False,
    json: Json = False,
) -> None:
    """Raw files to shards.

    Read a data set in its original layout, check every image and write tars with a manifest. A build that was stopped
    goes on where it was. A finished one looks at its inputs again: where lost images have come, or images have changed
    since, it is built again beside the old set and takes its place when it is whole; else nothing is done.

    An entry of the annotations that cannot be used goes to quarantine.parquet with its reason, and the build goes on.
    The ledger tells what became of all entries. Where --strict or --at-most-lost 0.1% finds too many lost, no manifest
    is written, but the shards stay: the same command without it ends quickly.

    What lies at a URL is fetched first, to LACONVNET_RAW_CACHE or the user's cache: annotations from stores that list
    their files (s3://, gs://), images by name from these and from web servers.

    laconvnet shards sources tells what each source expects under --root.

    For example:
      laconvnet shards build refcoco --root ~/refer --out shards/refcoco --workers 8
    """
    from laconvnet.shards.build.brake import Brake
    from laconvnet.shards.build.builder import build_task
    from laconvnet.shards.build.heal import build_or_heal
    from laconvnet.shards.build.plan import plan
    from laconvnet.shards.format.facts import GENERATED
    from laconvnet.shards.sets import info as counting
    from laconvnet.shards.sources import get
    from laconvnet.shards.sources.base import Samples
    from laconvnet.shards.sources.generated import is_generated
    from laconvnet.shards.sources.remote import at_hand, samples_of

    share = _share(task) if task else None
    brake = Brake(strict, None if at_most_lost is None else _fraction(at_most_lost))
    origin = get(source)

    def samples() -> Samples:
        return samples_of(origin, root, images, split, partition)

    if dry_run:
        show(asdict(plan(samples(), shard_bytes)), json)
        return
    options = {"split": split, "partition": partition, "shard_bytes": shard_bytes}
    options |= {GENERATED: True} if is_generated(at_hand(root)) else {}
    given: dict[str, Any] = {"source": origin.name, "licence": origin.licence, "options": options}
    given |= {"shard_bytes": shard_bytes, "workers": workers}
    if share:
        build_task(samples(), out, task=share, **given)
        show({"out": str(out), "task": f"{share[0]}/{share[1]}"}, json)
        return
    build_or_heal(samples, out, brake=brake, retry=retry_quarantined, **given)
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


def check(
    source: SourceName,
    *,
    root: Root,
    images: Images = None,
    split: Splits = None,
    partition: Partition = None,
    annotations_only: Annotated[bool, Arg("look for no image, and open none")] = False,
    faults: Annotated[int, Arg("faults of a cause that are listed", "N", at_least=0)] = 5,
    json: Annotated[bool, Arg("print one JSON object, with every fault")] = False,
) -> int:
    """What a build would lose.

    Read everything that `shards build` would read, and write nothing: the ledger, and the faults with their reasons.
    Each image is decoded, unless there is --annotations-only. The exit code is 1 where something would be lost by a
    fault.

    What the rules of a data set leave out is no fault; the ledger tells it. Entries that would be kept, but changed,
    are listed as well.

    For example:
      laconvnet shards check refcoco --root ~/refer --annotations-only
    """
    from laconvnet.shards.build import check as checking
    from laconvnet.shards.format.ledger import faults_of
    from laconvnet.shards.sources import get
    from laconvnet.shards.sources.remote import samples_of

    samples = samples_of(get(source), root, images, split, partition, look=not annotations_only)
    checked = checking.check(samples, root, with_images=not annotations_only)
    changed = checked.quarantine.filter(checked.quarantine["changed"]).to_pylist()
    lost = faults_of(checked.quarantine).to_pylist()
    if json:
        show({"ledger": checked.ledger, "faults": lost, "changed": changed}, json)
    else:
        rows(list(account_rows("", checked.ledger)), False)
        _list_faults(changed, faults)
        _list_faults(lost, faults)
    return 1 if lost else 0


def _list_faults(found: Sequence[dict[str, Any]], most: int) -> None:
    """The first faults of each cause, a line each, and the number of the rest."""
    by_cause: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        by_cause.setdefault(row["cause"], []).append(row)
    for cause, of_cause in by_cause.items():
        say()
        say(f"{one_line(cause)}: {len(of_cause)}{' (kept)' if of_cause[0]['changed'] else ''}")
        for row in of_cause[:most]:
            file = "" if row["file"] in row["reason"] else f"{row['file']}: "
            say(one_line(f"  {row['kind']} {row['id']}: {file}{row['reason']}"))
        if len(of_cause) > most:
            say(f"  and {len(of_cause) - most} more")


def sources(*, json: JsonLines = False) -> None:
    """What can be built.

    What can be built, under which licence, and what is expected under --root; of own tables the columns.

    For example:
      laconvnet shards sources
    """
    from laconvnet.shards.sources import SOURCES

    for number, source in enumerate(SOURCES.values()):
        row = {"name": source.name, "title": source.title, "licence": source.licence}
        if json:
            show({**row, "files": list(source.files)}, json)
            continue
        if number:
            say()
        show(row, json)
        for file in source.files:
            say(f"  {one_line(file)}")


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

    For example:
      laconvnet shards generate --out raw --pictures 200
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

    Merge built sets by weight, without copying them, and leave out every image that is in a held-out split of an
    excluded set or of an input, whether it was built there or lost: by its ids of COCO and Flickr, file name, bytes,
    pixels, and by a hash that copies in another size or quality nearly share. What was left out is listed in
    excluded.parquet; doubtful.parquet and doubtful.html have what was kept though it looks much like a held-out image;
    how many images there are of both is printed. An overlap that remains is an error.

    For example:
      laconvnet shards pretrain-set --inputs shards/refcoco shards/visual_genome=0.5 --exclude shards/grefcoco
        --out shards/mixed
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
    against: Annotated[Sequence[Path], Arg("sets whose held-out images must not occur", "DIR", url=True)] = (),
    json: Json = False,
) -> None:
    """Check a shard set.

    Check sizes, indices and references, and the ledger against tables and quarantine; with --full every byte and image;
    with --against that no image is in a held-out split there, by all that pretrain-set knows images by.

    For example:
      laconvnet shards verify shards/refcoco --full
    """
    from laconvnet.shards.sets import verify as checking

    report = checking.verify(folder, full=full, against=against)
    show({name: value for name, value in report.items() if json or (name != "published" and value != [])}, json)
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

    For example:
      laconvnet shards info shards/refcoco --batch 256
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

    For example:
      laconvnet shards preview shards/refcoco --split val --text left --out val.html
    """
    from laconvnet.shards.pages.choice import Wanted
    from laconvnet.shards.pages.preview import preview as write

    show(write(folder, out, Wanted(split, source, size, kind, text), tuple(key), number, seed), json)


def copy(
    source: BuiltSet,
    *,
    out: Annotated[Path, Arg("where to: a URL, or a folder where the set is at a URL", "DIR", url=True)],
    json: Json = False,
) -> None:
    """Copy a shard set to a store, or from one.

    Copy a set to a URL that fsspec knows (s3://, gs://, ...), or from one to this machine. The manifest comes last:
    until then nobody takes it for a set. A copy that was stopped goes on where it was.

    A set at a URL can be trained on, evaluated and looked at there: --data.folder, --data and DIR take URLs. For s3://
    install s3fs; keys and endpoint are those that AWS's own tools read (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).

    For example:
      laconvnet shards copy shards/refcoco --out s3://bucket/refcoco
    """
    from laconvnet.shards.sets import copy as copying

    show(copying.copy(source, out), json)
