"""`laconvnet bench data`."""

from __future__ import annotations

import argparse
from typing import Any

from laconvnet.launch.commands.bench.record import add_record, recorder
from laconvnet.launch.commands.output import rows

_DATA = """Time the way of the images on this machine: decoding and letterboxing 640x480 JPEGs to 416 from memory, in
several formulations, each with its error against an exact one; the whole loader against that; finding a position in 1e9
samples; and the first batch of a set of 1e6. Rows tell the median over interleaved rounds and the distance of the
quartiles; the ratio is the baseline's median by the row's."""


def add(group: Any) -> None:
    data = group.add_parser("data", help="decoding, loading and seeking", description=_DATA)
    data.add_argument("--pictures", type=int, default=16, metavar="N", help="images of a batch (default: 16)")
    data.add_argument("--threads", type=int, default=2, metavar="N", help="threads that read and decode (default: 2)")
    data.add_argument("--rounds", type=int, default=9, metavar="N", help="times each way runs (default: 9)")
    data.add_argument("--json", action="store_true", help="print one JSON object a row")
    add_record(data)
    data.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from laconvnet.pipeline.bench import data
    from laconvnet.pipeline.bench.record import plain
    from laconvnet.pipeline.errors import ConfigError

    for name in ("pictures", "threads", "rounds"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"command line: --{name}: {getattr(arguments, name)}: expected at least 1")
    keep = recorder(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = data.rows(device, arguments.pictures, arguments.threads, arguments.rounds)
    for found in tqdm(parts, total=4, desc="bench", unit="part"):
        keep.add(found)
        rows([plain(row) for row in found], arguments.json)
    return 0
