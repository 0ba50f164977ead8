"""`laconvnet train`, `eval`, `predict` and `report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.output import show
from laconvnet.pipeline.runs.layout import EVALUATIONS, REPORT


def add(commands: Any) -> None:
    _add_train(commands)
    _add_eval(commands)
    _add_predict(commands)
    _add_report(commands)


def _add_train(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="start or resume a run",
        description="Start a run, or go on with it: the same command does both. Keys of the configuration follow as "
        "--key.sub VALUE and win over the file. Several processes: start it by `laconvnet launch`, torchrun or srun.",
        epilog="Every key, with type, default and meaning: laconvnet train --help-keys",
    )
    command.add_argument("--config", type=Path, metavar="FILE", help="YAML file of configuration keys")
    command.add_argument(
        "--run", type=Path, metavar="DIR", help="folder of the run: configuration, log and checkpoints"
    )
    command.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    command.add_argument("--help-keys", action="store_true", help="describe every key of the configuration and stop")
    command.set_defaults(command=_train, takes_keys=True)


def _train(arguments: argparse.Namespace) -> int:
    from laconvnet.pipeline import config
    from laconvnet.pipeline.errors import ConfigError

    if arguments.help_keys:
        print(config.parser().format_help())
        return 0
    resolved = config.load(arguments.config, arguments.keys)
    if arguments.print_config:
        print(config.dump(resolved), end="")
        return 0
    if arguments.run is None:
        raise ConfigError("command line: --run is missing; expected the folder to keep the run in, such as runs/first")
    from laconvnet.pipeline.training.loop import train

    return 0 if train(resolved, arguments.run) else 130


def _add_eval(commands: Any) -> None:
    command = commands.add_parser(
        "eval",
        help="score a run on a split",
        description="Score the averaged weights of a run's newest checkpoint on every example of a split, once each. "
        "Several processes (`processes` of a stage, torchrun or srun) share the batches and write what one would.",
    )
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="a built shard set")
    command.add_argument("--split", required=True, metavar="S", help="split to score, such as val or testA")
    command.add_argument(
        "--out", type=Path, metavar="F", help="JSON file for the result (default: RUN/eval/<set>-<split>.json)"
    )
    command.add_argument(
        "--controls",
        action="store_true",
        help="score again with the words shuffled between examples and with blank pictures",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(command=_eval)


def _eval(arguments: argparse.Namespace) -> int:
    from laconvnet.pipeline.inference.evaluate import evaluate

    name = arguments.data.resolve().name
    out = arguments.out or arguments.run / EVALUATIONS / f"{name}-{arguments.split}.json"
    report = evaluate(arguments.run, arguments.data, arguments.split, out, arguments.controls)
    if report is not None:  # of several processes the leading one alone has it
        show(report, arguments.json)
    return 0


def _add_predict(commands: Any) -> None:
    command = commands.add_parser(
        "predict",
        help="ask a run about one picture",
        description="The answer of a run to one sentence on one picture; --out draws it.",
    )
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    command.add_argument("--image", type=Path, required=True, metavar="F", help="picture file")
    command.add_argument("--text", required=True, metavar="T", help="an expression, or a question")
    command.add_argument("--out", type=Path, metavar="F", help="picture file for the drawing, such as answer.png")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(command=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    from laconvnet.pipeline.inference.predict import predict

    show(predict(arguments.run, arguments.image, arguments.text, arguments.out), arguments.json)
    return 0


def _add_report(commands: Any) -> None:
    command = commands.add_parser(
        "report",
        help="write the HTML report of runs",
        description="One self-contained HTML page: loss curves, metrics, pictures with predicted and true answers.",
    )
    command.add_argument(
        "place", type=Path, nargs="+", metavar="RUN_OR_STAGES", help="folders of runs, or of a launched stage graph"
    )
    command.add_argument("--out", type=Path, metavar="F", help="HTML file (default: report.html in the first folder)")
    command.set_defaults(command=_report)


def _report(arguments: argparse.Namespace) -> int:
    from laconvnet.pipeline.report.page import report

    out = arguments.out or arguments.place[0] / REPORT
    print(report(arguments.place, out), end="")
    return 0
