"""`laconvnet model`: what a network is made of and what it costs."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from csv import DictWriter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from laconvnet.launch import commandline
from laconvnet.launch.commandline import Arg
from laconvnet.launch.commands.output import rows, show
from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import complain, say

if TYPE_CHECKING:
    from laconvnet.pipeline.config import TrainConfig

Csv = Annotated[bool, Arg("print comma-separated values", group="format")]
_FEW_TOKENS = 8  # a side; with 4 the demo's network fell below one that looks at the words alone
_RULE = (
    'MACs are multiply-adds (not twice their number) of one image with one expression, the papers\' "FLOPs": '
    "convolutions, linear layers, the recurrence, both attention products and dynamic convolutions are counted; batch "
    "norm, activations, softmax, pooling and resizing are not."
)


def add(commands: Any) -> None:
    about = "parameters and costs of the networks", "The networks and their costs."
    commandline.group(commands, "model", *about, info, table, epilog=_RULE)


def info(
    keys: Sequence[str],
    *,
    config: Annotated[Path | None, Arg("training configuration to cost (YAML)", "FILE")] = None,
    preset: Annotated[str | None, Arg("tiny, 10, 15, 19, s, b, s_released or b_released (default: s)", "P")] = None,
    task: Annotated[str | None, Arg("what is asked, such as rec, res or vqa (default: rec)", "T")] = None,
    head: Annotated[
        str | None,
        Arg("what answers, such as anchors or points (default: that of the preset or the task)", "H"),
    ] = None,
    block: Annotated[
        str | None, Arg("what the network is made of, such as laconv or film (default: laconv)", "B")
    ] = None,
    size: Annotated[int | None, Arg("side of the image in pixels (default: 416)", "N")] = None,
    words: Annotated[int | None, Arg("words of an expression (default: 15)", "N")] = None,
    vocabulary: Annotated[int, Arg("words of the vocabulary", "N", at_least=1)] = 10_000,
    answers: Annotated[int, Arg("answers of a VQA head (default: 28, CLEVR)", "N", at_least=1)] = 28,
    layers: Annotated[bool, Arg("a row for every layer in place of every part")] = False,
    json: Annotated[bool, Arg("print one JSON object, layers included", group="format")] = False,
    csv: Csv = False,
) -> None:
    """Parameters and MACs by part and layer.

    Parameters and MACs by part and by layer, word vectors apart; and the tokens by which each stage weighs the words,
    which are few where images are small and model.packing is not. Keys of a training configuration may follow as
    --key.sub VALUE, such as --model.kernel_size 3, and win over the file.

    For example:
      laconvnet model info --preset s --size 416
    """
    import torch

    from laconvnet.pipeline import config as configuration
    from laconvnet.pipeline.model import PRESETS, build_model
    from laconvnet.pipeline.model.blocks import BLOCKS
    from laconvnet.pipeline.model.cost import cost
    from laconvnet.pipeline.model.heads import HEADS, TASKS

    # A folder is the one key without a default, and costs need no data.
    given = ["--data.folder=."]
    given += _key("preset", preset, PRESETS) + _key("task", task, TASKS)
    given += _key("head", head, HEADS) + _key("block", block, BLOCKS)
    given += [f"--data.{name}={value}" for name, value in (("size", size), ("words", words)) if value is not None]
    resolved = configuration.load(config, [*given, *keys])
    with torch.device("meta"):
        model = build_model(resolved.model, vocabulary, answers)
    counted = cost(model, resolved.data.size, resolved.data.words)
    tokens = _tokens(resolved)
    if json:
        show({**counted, **({"tokens": tokens} if tokens else {})}, True)
        return
    parts, by_layer = counted.pop("parts"), counted.pop("layers")
    found = by_layer if layers else [{"part": name, **part} for name, part in parts.items()]
    if csv:
        _csv(found)
        return
    rows([_with_shares(row, counted) for row in found], False)
    show(counted, False)
    if tokens:
        show({"tokens by stage": ", ".join(f"{side} x {side}" for side in tokens)}, False)


def _tokens(config: TrainConfig) -> tuple[int, ...]:
    """Those by which each stage weighs the words, () of a network that does not; few of them are warned of."""
    model, size = config.model, config.data.size
    if model.block != "laconv" or model.generator != "affinity" or model.backbone:
        return ()
    tokens = model.net().tokens(size)
    if tokens[0] < _FEW_TOKENS:
        complain(
            f"stage 1 has {tokens[0]} x {tokens[0]} tokens at {size} pixels, where words are weighed; expected "
            f"{_FEW_TOKENS} x {_FEW_TOKENS} at least: give a smaller model.packing, or larger images"
        )
    return tokens


def _key(name: str, given: str | None, known: Collection[str]) -> list[str]:
    if given is None:
        return []
    if given not in known:
        raise ConfigError(f"command line: --{name}: {given!r}: expected one of {', '.join(known)}")
    return [f"--model.{name}={given}"]


def _with_shares(row: Mapping[str, Any], total: Mapping[str, int]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in row.items():
        result[name] = value
        if name in ("params", "macs"):
            result[f"% of {name}"] = round(100 * value / total[name], 1)
    return result


def table(
    number: Annotated[Sequence[str], Arg("table of v2, or v1-4b (default: all)", "N")] = (),
    *,
    json: Annotated[bool, Arg("print one JSON object a row", group="format")] = False,
    csv: Csv = False,
) -> None:
    """The papers' cost tables beside what is counted here.

    The papers' tables of configurations and costs, each row beside the configuration that is counted for it here, the
    difference in per cent, and the reason where it is not met. Counted at 15 words and without word vectors.

    For example:
      laconvnet model table
    """
    from laconvnet.pipeline.model import tables
    from laconvnet.progress import Progress

    chosen = tables.select(number)
    compared = list(Progress(tables.compare(chosen), total=len(chosen), desc="counting", unit="row", leave=False))
    if json:
        rows(compared, True)
        return
    if csv:
        _csv(compared)
        return
    for one in dict.fromkeys(row["table"] for row in compared):
        say(_title(one))
        rows(_in_figures([row for row in compared if row["table"] == one]), False)
        say()


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
    writer = DictWriter(sys.stdout, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
