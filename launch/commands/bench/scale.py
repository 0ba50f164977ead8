"""`laconvnet bench scale`: a large run, simulated on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from laconvnet.launch.commands.bench.record import add_record, recorder
from laconvnet.launch.commands.output import rows

_ABOUT = """Simulate a run of many ranks over very many samples on this machine, from its plan alone; no data is needed.

  ids         time and memory to find the samples of a rank's step, whatever stands before
  exact       samples shown twice, or by no rank, in steps of the run and in a whole small epoch: all must be 0
  reads       what 1,000 steps of a rank and of a node of 8 read: shards, files opened with 512 kept open, bytes, bytes
              in blocks of 1 MiB; how many shards a step reads, and how often the hottest. Shard after shard is what a
              stream of tar files would read
  epoch       shards that one rank reads in an epoch
  tables      the manifest: what the processes of a node map, one copy, and what each holds for itself
  checkpoint  its parts, its writing at --rate and here, its reading when all ranks resume
  start       files that a rank of a small run of two opens until its first step is done: Python's own and shared
              libraries; of a mapped table its whole size; what C++ reads by itself, such as Parquet, is not seen

The exit code is 1 where `exact` is not 0. It takes a minute or two."""
_SAME = ("bench", "device", "cores", "load", "versions", "samples", "shards", "share", "window")


def add(group: Any) -> None:
    """Adds the command to those of `laconvnet bench`."""
    command = group.add_parser(
        "scale",
        help="a large run's order, reads, state and start, simulated",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--samples", type=float, default=1e9, metavar="N", help="of the set (default: 1e9)")
    command.add_argument("--ranks", type=int, default=512, metavar="N", help="of the largest world (default: 512)")
    command.add_argument("--share", type=int, default=16, metavar="N", help="samples of a rank's step (default: 16)")
    command.add_argument("--window", type=float, default=1e6, metavar="N", help="data.window (default: 1e6)")
    command.add_argument("--shard-bytes", type=int, default=256 * 2**20, metavar="N", help="(default: 256 MiB)")
    command.add_argument("--rate", type=float, default=1.0, metavar="GB/s", help="of writing (default: 1)")
    command.add_argument("--rounds", type=int, default=5, metavar="N", help="times what is timed runs (default: 5)")
    command.add_argument("--json", action="store_true", help="print one JSON object a row")
    add_record(command)
    command.set_defaults(command=_scale)


def _scale(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from laconvnet.pipeline.bench import scale
    from laconvnet.pipeline.errors import ConfigError

    for name in ("ranks", "share", "window", "rounds", "shard_bytes"):
        if not getattr(arguments, name) >= 1:
            option = name.replace("_", "-")
            raise ConfigError(f"command line: --{option}: {getattr(arguments, name):g}: expected at least 1")
    if not 0 < arguments.rate < float("inf"):
        raise ConfigError(f"command line: --rate: {arguments.rate:g}: expected GB a second, more than 0")
    least = arguments.ranks * arguments.share * scale.LEAST_STEPS
    if not least <= arguments.samples <= 1e12:
        raise ConfigError(
            f"command line: --samples: {arguments.samples:g}: expected at least {least:,}, which {arguments.ranks} "
            f"ranks pass over in {scale.LEAST_STEPS:,} steps, and at most 1e12"
        )
    asked = scale.Scale(
        samples=int(arguments.samples),
        ranks=arguments.ranks,
        share=arguments.share,
        window=int(arguments.window),
        shard_bytes=arguments.shard_bytes,
        rate=arguments.rate,
    )
    keep = recorder(arguments)
    wrong = 0
    for found in tqdm(scale.rows(asked, arguments.rounds), total=len(scale.PARTS), desc="bench", unit="part"):
        wrong += sum(row["median"] for row in found if row["bench"] == "exact")
        keep.add(found)
        if arguments.json:
            rows(found, True)
            continue
        print("; ".join(f"{name} {found[0][name]}" for name in _SAME))
        rows([{name: value for name, value in row.items() if name not in _SAME} for row in found], False)
        print()
    return 1 if wrong else 0
