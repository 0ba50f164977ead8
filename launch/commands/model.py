"""`laconvnet model`: what a network is made of and what it costs."""

from __future__ import annotations

import argparse
from typing import Any

from launch.commands.output import rows, show

_RULE = (
    "MACs are multiply-adds at batch 1 by the papers' rule: convolutions, linear layers, attention products and "
    "dynamic convolutions are counted, batch norm and activations are not."
)


def add(commands: Any) -> None:
    group = commands.add_parser(
        "model", help="parameters and costs of the networks", description="The networks and their costs."
    )
    info = group.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "info", help="parameters and MACs by part", description=f"Parameters and MACs by part. {_RULE}"
    )
    info.add_argument("--preset", required=True, metavar="P", help="tiny, 10, 15, 19, s, b, s_released or b_released")
    info.add_argument("--task", default="rec", choices=("rec", "vqa"), help="the head (default: rec)")
    info.add_argument("--size", type=int, default=416, metavar="N", help="side of the picture in pixels (default: 416)")
    info.add_argument("--words", type=int, default=15, metavar="N", help="words of an expression (default: 15)")
    info.add_argument(
        "--vocabulary", type=int, default=10_000, metavar="N", help="words of the vocabulary (default: 10000)"
    )
    info.add_argument("--answers", type=int, default=28, metavar="N", help="answers of a VQA head (default: 28, CLEVR)")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(command=_info)


def _info(arguments: argparse.Namespace) -> int:
    import torch

    from pipeline.errors import ConfigError
    from pipeline.model import PRESETS, ModelConfig, build_model
    from pipeline.model.cost import cost

    if arguments.preset not in PRESETS:
        raise ConfigError(f"command line: --preset: {arguments.preset!r}: expected one of {', '.join(PRESETS)}")
    with torch.device("meta"):
        model = build_model(
            ModelConfig(preset=arguments.preset, task=arguments.task), arguments.vocabulary, arguments.answers
        )
    counted = cost(model, arguments.size, arguments.words)
    if arguments.json:
        show(counted, True)
        return 0
    parts = counted.pop("parts")
    rows([{"part": name, **part} for name, part in parts.items()], False)
    show(counted, False)
    return 0
