"""`laconvnet bench shards`."""

from __future__ import annotations

import argparse
from typing import Any

from laconvnet.launch.commands.bench.networks import check_positive
from laconvnet.launch.commands.bench.record import add_record, recorder
from laconvnet.launch.commands.bench.tables import show_parts
from laconvnet.launch.commands.output import rows

_SHARDS = """Time the building of shards: `laconvnet shards build refcoco` on images generated for it, beside
webdataset.ShardWriter (the baseline), which writes the same images and JSON texts in the same run, in turn. The
building also reads the annotations, decodes and checks every image, sums every member and writes index and manifest,
synced to the disk; the baseline reads the image files and is given texts made before, in one process. A row tells the
median over rounds in ms an image, the distance of the quartiles, the ratio (baseline's median / median) and images a
second. Sets are written in the folder of temporary files (TMPDIR)."""


def add(group: Any) -> None:
    command = group.add_parser("shards", help="building shards against webdataset's writer", description=_SHARDS)
    command.add_argument("--pictures", type=int, default=1000, metavar="N", help="images of the set (default: 1000)")
    command.add_argument("--size", type=int, default=256, metavar="N", help="side of an image (default: 256)")
    command.add_argument("--workers", type=int, default=1, metavar="N", help="processes of the building (default: 1)")
    command.add_argument("--rounds", type=int, metavar="N", help="sets each way writes (default: 7)")
    command.add_argument("--quick", action="store_true", help="3 rounds")
    command.add_argument("--json", action="store_true", help="print one JSON object a row")
    add_record(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from laconvnet.pipeline.errors import ConfigError

    check_positive(arguments, "pictures", "workers", "rounds")
    if not 32 <= arguments.size <= 1024:
        raise ConfigError(f"command line: --size: {arguments.size}: expected 32 to 1024")
    keep = recorder(arguments)
    try:
        from laconvnet.launch.commands.bench import building
    except ModuleNotFoundError as error:
        raise ConfigError(f"bench shards: needs {error.name}, not installed here; pip install {error.name}") from error
    rounds = arguments.rounds or (3 if arguments.quick else 7)
    with tqdm(total=2 * (rounds + 1), desc="bench shards", unit="set") as bar:
        found = building.rows(arguments.pictures, arguments.size, arguments.workers, rounds, bar.update)
    keep.add(found)
    if arguments.json:
        rows(found, True)
    else:
        show_parts(found)
    return 0
