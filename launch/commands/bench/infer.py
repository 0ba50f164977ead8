"""`laconvnet bench infer`."""

from __future__ import annotations

import argparse
from typing import Any

from laconvnet.launch.commands.bench.device import add_device, device_of
from laconvnet.launch.commands.bench.networks import add_network, check_positive, network_of
from laconvnet.launch.commands.bench.record import add_record, recorder
from laconvnet.launch.commands.bench.tables import show_parts
from laconvnet.launch.commands.output import rows

_INFER = """Time a network that answers, on random images and words: the latency of one image, and the throughput of
a batch; the operator (laconv) beside unfold + einsum in eager PyTorch (the baseline), in turn, with the same weights. A
row tells the median over rounds in ms a batch, the distance of the quartiles, the ratio (baseline's median / median)
and images a second. Decoding is not in it: `laconvnet bench data`."""


def add(group: Any) -> None:
    command = group.add_parser("infer", help="latency and throughput of a network that answers", description=_INFER)
    add_device(command)
    add_network(command)
    command.add_argument("--task", default="rec", metavar="T", help="what is asked, such as rec or vqa (default: rec)")
    command.add_argument("--rounds", type=int, metavar="N", help="times each way runs (default: 15)")
    command.add_argument("--quick", action="store_true", help="5 rounds")
    command.add_argument("--json", action="store_true", help="print one JSON object a row")
    add_record(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from laconvnet.pipeline.bench import infer

    check_positive(arguments, "batch", "rounds")
    device = device_of(arguments.device)
    network = network_of(arguments, device, arguments.task)
    keep = recorder(arguments)
    rounds = arguments.rounds or (5 if arguments.quick else 15)
    table: list[dict[str, Any]] = []
    for found in tqdm(infer.rows(network, device, rounds), total=2, desc="bench infer", unit="part"):
        keep.add(found)
        table += found
        if arguments.json:
            rows(found, True)
    if not arguments.json:
        show_parts(table)
    return 0
