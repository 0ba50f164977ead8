"""`laconvnet model`: what a network is made of and what it costs."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.output import rows, show

_RULE = (
    'MACs are multiply-adds (not twice their number) of one picture with one expression, the papers\' "FLOPs": '
    "convolutions, linear layers, the recurrence, both attention products and dynamic convolutions are counted; batch "
    "norm, activations, softmax, pooling and resizing are not."
)


def add(commands: Any) -> None:
    group = commands.add_parser(
        "model", help="parameters and costs of the networks", description="The networks and their costs."
    ).add_subparsers(required=True, metavar="COMMAND")
    _add_info(group)
    _add_table(group)


def _add_info(commands: Any) -> None:
    info = commands.add_parser(
        "info",
        help="parameters and MACs by part and layer",
        description="Parameters and MACs by part and by layer, word vectors apart. Keys of a training configuration "
        f"may follow as --key.sub VALUE, such as --model.kernel_size 3, and win over the file. {_RULE}",
    )
    info.add_argument("--config", type=Path, metavar="FILE", help="training configuration to cost (YAML)")
    info.add_argument("--preset", metavar="P", help="tiny, 10, 15, 19, s, b, s_released or b_released (default: s)")
    info.add_argument("--task", metavar="T", help="what is asked, such as rec, res or vqa (default: rec)")
    info.add_argument(
        "--head", metavar="H", help="what answers, such as anchors or points (default: that of the preset or the task)"
    )
    info.add_argument(
        "--block", metavar="B", help="what the network is made of, such as laconv or film (default: laconv)"
    )
    info.add_argument("--size", type=int, metavar="N", help="side of the picture in pixels (default: 416)")
    info.add_argument("--words", type=int, metavar="N", help="words of an expression (default: 15)")
    info.add_argument(
        "--vocabulary", type=int, default=10_000, metavar="N", help="words of the vocabulary (default: 10000)"
    )
    info.add_argument("--answers", type=int, default=28, metavar="N", help="answers of a VQA head (default: 28, CLEVR)")
    info.add_argument("--layers", action="store_true", help="a row for every layer in place of every part")
    _add_formats(info, "print one JSON object, layers included")
    info.set_defaults(command=_info, takes_keys=True)


def _add_table(commands: Any) -> None:
    table = commands.add_parser(
        "table",
        help="the papers' cost tables beside what is counted here",
        description="The papers' tables of configurations and costs, each row beside the configuration that is counted "
        "for it here, the difference in per cent, and the reason where it is not met. Counted at 15 words and without "
        f"word vectors. {_RULE}",
    )
    table.add_argument("number", nargs="*", metavar="N", help="table of v2, or v1-4b (default: all)")
    _add_formats(table, "print one JSON object a row")
    table.set_defaults(command=_table)


def _add_formats(command: Any, json_help: str) -> None:
    formats = command.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help=json_help)
    formats.add_argument("--csv", action="store_true", help="print comma-separated values")


def _info(arguments: argparse.Namespace) -> int:
    import torch

    from laconvnet.pipeline import config
    from laconvnet.pipeline.errors import ConfigError
    from laconvnet.pipeline.model import PRESETS, build_model
    from laconvnet.pipeline.model.blocks import BLOCKS
    from laconvnet.pipeline.model.cost import cost
    from laconvnet.pipeline.model.heads import HEADS, TASKS

    # A folder is the one key without a default, and costs need no data.
    keys = ["--data.folder=."]
    for name, known in (("preset", PRESETS), ("task", TASKS), ("head", HEADS), ("block", BLOCKS)):
        keys += _key(f"model.{name}", name, getattr(arguments, name), known)
    keys += [f"--data.{name}={given}" for name in ("size", "words") if (given := getattr(arguments, name)) is not None]
    for name in ("vocabulary", "answers"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"command line: --{name}: {getattr(arguments, name)}: expected at least 1")
    resolved = config.load(arguments.config, [*keys, *arguments.keys])
    with torch.device("meta"):
        model = build_model(resolved.model, arguments.vocabulary, arguments.answers)
    counted = cost(model, resolved.data.size, resolved.data.words)
    if arguments.json:
        show(counted, True)
        return 0
    parts, layers = counted.pop("parts"), counted.pop("layers")
    table = layers if arguments.layers else [{"part": name, **part} for name, part in parts.items()]
    if arguments.csv:
        _csv(table)
        return 0
    rows([_with_shares(row, counted) for row in table], False)
    show(counted, False)
    return 0


def _key(key: str, flag: str, given: str | None, known: Collection[str]) -> list[str]:
    from laconvnet.pipeline.errors import ConfigError

    if given is None:
        return []
    if given not in known:
        raise ConfigError(f"command line: --{flag}: {given!r}: expected one of {', '.join(known)}")
    return [f"--{key}={given}"]


def _with_shares(row: Mapping[str, Any], total: Mapping[str, int]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in row.items():
        result[name] = value
        if name in ("params", "macs"):
            result[f"% of {name}"] = round(100 * value / total[name], 1)
    return result


def _table(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from laconvnet.pipeline.model import tables

    chosen = tables.select(arguments.number)
    compared = list(tqdm(tables.compare(chosen), total=len(chosen), desc="counting", unit="row", leave=False))
    if arguments.json:
        rows(compared, True)
        return 0
    if arguments.csv:
        _csv(compared)
        return 0
    for number in dict.fromkeys(row["table"] for row in compared):
        print(_title(number))
        rows(_in_figures([row for row in compared if row["table"] == number]), False)
        print()
    return 0


def _title(number: str) -> str:
    version, _, table = number.rpartition("-")
    return f"Tab. {table} of {version or 'v2'} (params in millions, MACs in thousand millions)"


def _in_figures(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows as the papers print them, without the columns that this table does not have."""
    shown = [
        {
            "row": row["row"],
            "counted": row["configuration"] + ("" if row["counted"] == "whole" else f": {row['counted']}"),
            **{
                f"{who}{what}": None if (value := row[f"{who.replace(' ', '_')}{what}"]) is None else value / unit
                for what, unit in (("params", 1e6), ("macs", 1e9))
                for who in ("paper ", "")
            },
            "params off %": row["params_off"],
            "macs off %": row["macs_off"],
            "note": row["note"],
        }
        for row in table
    ]
    kept = [name for name in shown[0] if any(row[name] not in (None, "") for row in shown)]
    return [{name: row[name] for name in kept} for row in shown]


def _csv(table: Sequence[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
