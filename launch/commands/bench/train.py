"""`laconvnet bench train`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laconvnet.launch.commands.bench.device import add_device, device_of
from laconvnet.launch.commands.bench.record import add_record, recorder
from laconvnet.launch.commands.bench.tables import show_parts

if TYPE_CHECKING:
    import torch

    from laconvnet.pipeline.bench.speed import Network
    from laconvnet.pipeline.bench.training import Part
    from laconvnet.pipeline.config import TrainConfig

_TRAIN = """Time what training costs, in parts:
  loop        the training loop (logging, guard, averages, flags) beside bare steps of the same model, optimizer and
              engine on the same batches from memory, step by step in turn
  checkpoint  steps that save beside steps that do not, and all that a checkpoint adds while it is written
  memory      resident memory over an epoch of small batches through the loader, behind an epoch to warm up
  speed       steps of the network alone, the operator beside eager unfold: images a second, waiting for data, memory,
              share of the device's peak
The first three are runs of `laconvnet train` in processes of their own, on images made for it; without DeepSpeed,
DALI and the rest they are left out, and say so. A row tells the median over rounds, the distance of the quartiles,
the ratio (baseline's median / median), and what it is on top of the baseline in per cent, round by round, with the
interval in which its true middle lies with 95 % confidence (over_low, over_high): the loop should have at most 1, a
checkpoint at most 100 (one step), memory less than 5. A round of the loop is a step. How soon the first batch comes:
`laconvnet bench data`.

Keys of the configuration follow as --key.sub VALUE and win over the file; folder, split and epochs are the bench's own.
Defaults: on a CPU preset tiny, 64 pixels, batch 16, fp32; on a GPU preset s, 416 pixels, batch 32, bf16.

  laconvnet bench train --part loop --log.every 10
  laconvnet bench train --device cuda --config configs/pretrain/rec_s.yaml --data.batch 32 --json > train.jsonl
  laconvnet bench show train.jsonl
"""
_PARTS = ("loop", "checkpoint", "memory", "speed")
_STEPS = {"cpu": 3, "cuda": 10}  # of a way in a round of speed


def add(group: Any) -> None:
    train = group.add_parser(
        "train",
        help="the loop, checkpoints, memory; a network's speed",
        description=_TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("--config", type=Path, metavar="FILE", help="YAML file of configuration keys")
    add_device(train)
    train.add_argument("--part", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure (default: all)")
    train.add_argument("--rounds", type=int, metavar="N", help="rounds of a part (default: 9)")
    train.add_argument("--epoch", type=int, metavar="N", help="steps of an epoch of the part memory (default: 500)")
    train.add_argument("--quick", action="store_true", help="3 rounds, epochs of 100 steps")
    train.add_argument("--minutes", type=float, metavar="N", help="begin no part after these")
    train.add_argument("--json", action="store_true", help="print one JSON object a row")
    add_record(train)
    train.set_defaults(command=run, takes_keys=True)


def run(arguments: argparse.Namespace) -> int:
    from laconvnet.pipeline.bench.rows import missing
    from laconvnet.pipeline.errors import ConfigError

    for name in ("rounds", "epoch", "minutes"):
        value = getattr(arguments, name)
        if value is not None and not (value > 0 if name == "minutes" else value >= 1):
            raise ConfigError(f"command line: --{name}: {value}: expected a positive number")
    device = device_of(arguments.device)
    rounds = arguments.rounds or (3 if arguments.quick else 9)
    lacking = missing()
    config = None
    if lacking and (arguments.config or arguments.keys):
        raise ConfigError(f"command line: a configuration needs {', '.join(lacking)}, not installed here; leave it out")
    if not lacking:
        from laconvnet.pipeline.bench import training

        config = training.settings(arguments.config, arguments.keys, device)
    names = list(dict.fromkeys(arguments.part))
    return _measure(arguments, config, lacking, names, device, rounds)


def _measure(
    arguments: argparse.Namespace,
    config: TrainConfig | None,
    lacking: list[str],
    names: list[str],
    device: torch.device,
    rounds: int,
) -> int:
    from tqdm import tqdm

    from laconvnet.pipeline.bench import speed
    from laconvnet.pipeline.bench.rows import empty_row

    keep = recorder(arguments)
    runs: dict[str, Part] = {}
    if config:
        from laconvnet.pipeline.bench import training

        epoch = arguments.epoch or (100 if arguments.quick else 500)
        wanted = [name for name in names if name != "speed"]
        runs = {part.name: part for part in training.parts(config, device, rounds, epoch, wanted)}
    end = time.monotonic() + 60 * (float("inf") if arguments.minutes is None else arguments.minutes)
    table: list[dict[str, Any]] = []
    left = list(names)
    while left and time.monotonic() < end:
        name = left.pop(0)
        if name == "speed":
            with tqdm(total=2 * rounds, desc="bench speed", unit="block") as bar:
                network = _network(config, device)
                found = speed.rows(network, device, rounds, _STEPS[device.type], bar.update)
        elif name in runs:
            with tqdm(total=runs[name].lines, desc=f"bench {name}", unit="step") as bar:
                found = runs[name].measure(bar.update)
        else:
            found = [{**empty_row(name, f"left out: it needs {', '.join(lacking)}"), "bench": name}]
        keep.add(found)
        table += found
        if arguments.json:
            for row in found:
                print(json.dumps(row), flush=True)
    if left:
        print(f"laconvnet: not begun within {arguments.minutes:g} minutes: {', '.join(left)}", file=sys.stderr)
    if not arguments.json:
        show_parts(table)
    failed = sum(str(row["note"]).startswith("failed: ") for row in table)
    if failed:
        print(f"laconvnet: {failed} parts failed; the notes tell why", file=sys.stderr)
    return 1 if failed else 0


def _network(config: TrainConfig | None, device: torch.device) -> Network:
    from laconvnet.pipeline.bench.speed import SMALL, Network

    if config is None:
        return SMALL if device.type == "cpu" else Network()
    data = config.data
    return Network(config.model, data.size, data.words, data.batch, config.engine.precision, data.threads)
