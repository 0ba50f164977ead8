"""`laconvnet bench train`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from laconvnet.launch.commandline import Arg, JsonLines
from laconvnet.launch.commands.bench.measured import Measured
from laconvnet.launch.commands.bench.options import Device, Record, device_of, end_of
from laconvnet.launch.commands.bench.progress import bar
from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import complain

if TYPE_CHECKING:
    import torch

    from laconvnet.pipeline.bench.speed import Network
    from laconvnet.pipeline.bench.training import Part
    from laconvnet.pipeline.config import TrainConfig

Name = Literal["loop", "supervised", "checkpoint", "memory", "speed", "engine"]
_USUAL: tuple[Name, ...] = ("loop", "checkpoint", "memory", "speed")
_STEPS = {"cpu": 3, "cuda": 10}  # of a way in a round of speed


def train(
    keys: Sequence[str],
    *,
    config: Annotated[Path | None, Arg("YAML file of configuration keys", "FILE")] = None,
    device: Device = None,
    part: Annotated[Sequence[Name], Arg("what to measure (default: all but supervised and engine)")] = _USUAL,
    rounds: Annotated[int | None, Arg("rounds of a part (default: 9)", "N", at_least=1)] = None,
    epoch: Annotated[int | None, Arg("steps of an epoch of the part memory (default: 500)", "N", at_least=1)] = None,
    quick: Annotated[bool, Arg("3 rounds, epochs of 100 steps")] = False,
    minutes: Annotated[float | None, Arg("begin no part after these", "N", above=0)] = None,
    json: JsonLines = False,
    record: Record = None,
) -> int:
    """The loop, checkpoints, memory; a network's speed.

    Time what training costs, in parts:
      loop        the training loop (logging, guard, EMA, flags) beside bare steps of the same model, optimizer and
                  engine on the same batches from memory, step by step in turn
      supervised  the same loop with checkpoint.memory 1: after every step the state is kept in a supervisor's memory
      checkpoint  steps that save beside steps that do not, and all that a checkpoint adds while it is written
      memory      resident memory over an epoch of small batches through the loader, behind an epoch to warm up
      speed       steps of the network alone, the operator beside eager unfold: images a second, waiting for data,
                  memory, share of the device's peak
      engine      steps of DeepSpeed's engine, ZeRO 1 and 3, beside bare ones, on batches from memory: in bf16 and fp16
                  on a GPU, fp32 and bf16 on a CPU; whether the losses are finite, memory
    The first four are runs of `laconvnet train` in processes of their own, on images made for it; without DeepSpeed,
    DALI and the rest they are left out, and say so. A row tells the median over rounds, the distance of the quartiles,
    the ratio (baseline's median / median), and what it is on top of the baseline in per cent, round by round, with the
    interval in which its true middle lies with 95 % confidence (over_low, over_high): the loop should have at most 1, a
    checkpoint at most 100 (one step), memory less than 5. A round of the loop is a step. How soon the first batch
    comes: `laconvnet bench data`.

    Keys of the configuration follow as --key.sub VALUE and win over the file; folder, split and epochs are the bench's
    own.
    Defaults: on a CPU preset tiny, 64 pixels, batch 16, fp32; on a GPU preset s, 416 pixels, batch 32, bf16.

      laconvnet bench train --part loop --log.every 50
      laconvnet bench train --device cuda --config configs/pretrain/rec_s.yaml --data.batch 32 --json > train.jsonl
      laconvnet bench show train.jsonl
    """
    from laconvnet.pipeline.bench import engine, speed
    from laconvnet.pipeline.bench.rows import empty_row, missing

    lacking = missing()
    if lacking and (config or keys):
        raise ConfigError(f"command line: a configuration needs {', '.join(lacking)}, not installed here; leave it out")
    where, rounds = device_of(device), rounds or (3 if quick else 9)
    left = list(dict.fromkeys(part))
    given: TrainConfig | None = None
    runs: dict[str, Part] = {}
    if not lacking:
        from laconvnet.pipeline.bench import training

        given = training.settings(config, keys, where)
        watched = [name for name in left if name not in ("speed", "engine")]
        made = training.parts(given, where, rounds, epoch or (100 if quick else 500), watched)
        runs = {run.name: run for run in made}
    with Measured(json, record) as measured:
        end = end_of(minutes)
        while left and time.monotonic() < end:
            name = left.pop(0)
            if name == "speed":
                with bar(total=2 * rounds, desc="bench speed", unit="block") as progress:
                    network = _network(given, where)
                    measured.add(speed.rows(network, where, rounds, _STEPS[where.type], progress.update))
            elif name == "engine":
                network, steps = _network(given, where), _STEPS[where.type]
                for found in bar(engine.rows(network, where, rounds, steps), desc="bench engine", unit="engine"):
                    measured.add(found)
                    if time.monotonic() > end:
                        break
            elif name in runs:
                with bar(total=runs[name].lines, desc=f"bench {name}", unit="step") as progress:
                    measured.add(runs[name].measure(progress.update))
            else:
                measured.add([{**empty_row(name, f"left out: it needs {', '.join(lacking)}"), "bench": name}])
    if left:
        complain(f"laconvnet: not begun within {minutes:g} minutes: {', '.join(left)}")
    return measured.failed()


def _network(config: TrainConfig | None, device: torch.device) -> Network:
    from laconvnet.pipeline.bench.speed import SMALL, Network

    if config is None:
        return SMALL if device.type == "cpu" else Network()
    data = config.data
    return Network(config.model, data.size, data.words, data.batch, config.engine.precision, data.threads)
