"""`laconvnet bench bytes`."""

from __future__ import annotations

import argparse
from typing import Any

from laconvnet.launch.commands.bench.device import add_device, device_of
from laconvnet.launch.commands.bench.layers import layers_of
from laconvnet.launch.commands.bench.networks import add_network, check_positive, network_of
from laconvnet.launch.commands.bench.record import add_record, recorder
from laconvnet.launch.commands.bench.tables import show_parts
from laconvnet.launch.commands.output import rows

_BYTES = """Count the bytes that training keeps, with the operator (laconv) and with unfold + einsum in eager PyTorch
(the baseline):
  saved by the operator  what one layer keeps for backward, its inputs included (input_bytes: the inputs alone)
  saved by a step        what a step of the whole network keeps for backward, beside weights and input
  peak of a step         the most that a training step takes on top of what stays between steps (GPU only)
Storages are counted once, whoever keeps them, and whole. Counts do not depend on how busy the machine is; each is
made --rounds times all the same, and the quartiles tell whether it was another."""


def add(group: Any) -> None:
    command = group.add_parser(
        "bytes",
        help="memory that the operator and a step keep",
        description=_BYTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_device(command)
    add_network(command)
    command.add_argument("--rounds", type=int, default=2, metavar="N", help="times each is counted (default: 2)")
    command.add_argument("--json", action="store_true", help="print one JSON object a row")
    add_record(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from laconvnet.pipeline.bench import held

    check_positive(arguments, "batch", "rounds")
    device = device_of(arguments.device)
    network = network_of(arguments, device)
    keep = recorder(arguments)
    layers = layers_of([arguments.preset], [network.size], [])
    parts = (
        held.operator_rows(layers, network.precision, network.batch, device, arguments.rounds),
        held.step_rows(network, device, arguments.rounds),
    )
    table: list[dict[str, Any]] = []
    for part in tqdm(parts, desc="bench bytes", unit="part"):
        found = list(part)
        keep.add(found)
        table += found
        if arguments.json:
            rows(found, True)
    if not arguments.json:
        show_parts(table)
    return 0
