"""`laconvnet train`, `eval`, `predict`, `explain` and `report`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from laconvnet.launch import commandline
from laconvnet.launch.commandline import Arg, BuiltSet, Json, Last, Run
from laconvnet.launch.commands.output import show
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference.completeness import AT_LEAST
from laconvnet.pipeline.runs.layout import EVALUATIONS, REPORT
from laconvnet.terminal import say

# The -- keeps torchrun from reading --run as one of its own options (--run-path).
_SEVERAL = """Several processes: `processes` of a stage (`laconvnet launch`), or one of
  torchrun --standalone --nproc-per-node 8 --no-python -- {prog} ...
  accelerate launch --multi_gpu --num_processes 8 --no_python {prog} ...
  srun --ntasks-per-node 1 torchrun --nnodes 2 --nproc-per-node 8 \\
    --rdzv-backend c10d --rdzv-endpoint HOST:29500 --no-python -- {prog} ..."""


def add(commands: Any) -> None:
    commandline.add(commands, train, eval_, epilog=_SEVERAL)
    commandline.add(commands, predict, explain, report)


def train(
    keys: Sequence[str],
    *,
    config: Annotated[Path | None, Arg("YAML file of configuration keys", "FILE")] = None,
    run: Annotated[Path | None, Arg("folder of the run: configuration, log and checkpoints", "DIR")] = None,
    print_config: Annotated[bool, Arg("print the resolved configuration and stop")] = False,
    explain_resume: Annotated[bool, Arg("say what a start would go on from and what differs, and stop")] = False,
    help_keys: Annotated[bool, Arg("describe every key of the configuration and stop")] = False,
    json: Annotated[bool, Arg("print one JSON object at the end: how far the run is")] = False,
) -> int:
    """Start or resume a run.

    Start a run, or go on with it: the same command does both. Keys of the configuration follow as --key.sub VALUE and
    win over the file.

    Every key, with type, default and meaning: laconvnet train --help-keys

    For example:
      laconvnet train --config configs/finetune/refcoco_s.yaml --run runs/first --data.folder shards/refcoco
    """
    from laconvnet.pipeline import config as configuration

    if help_keys:
        say(configuration.parser().format_help())
        return 0
    resolved = configuration.load(config, keys)
    if print_config:
        say(configuration.dump(resolved), end="")
        return 0
    if run is None:
        raise ConfigError("command line: --run is missing; expected the folder to keep the run in, such as runs/first")
    if explain_resume:
        from laconvnet.pipeline.training import resume

        lines, works = resume.explain(resolved, run)
        say("\n".join(lines))
        return 0 if works else 2
    from laconvnet.pipeline.training import loop

    complete = loop.train(resolved, run)
    if json and os.environ.get("RANK", "0") == "0":
        from laconvnet.launch.status import show as show_status

        show_status(run, as_json=True)
    return 0 if complete else 130


def eval_(
    run: Run,
    *,
    data: BuiltSet,
    split: Annotated[str, Arg("split to score, such as val or testA", "S")],
    out: Annotated[Path | None, Arg("JSON file for the result (default: RUN/eval/<set>-<split>.json)", "F")] = None,
    controls: Annotated[
        bool, Arg("score again with the words shuffled between examples and with blank images")
    ] = False,
    explain: Annotated[
        bool, Arg("show in the report what the words do in its examples, see `laconvnet explain`")
    ] = False,
    last: Last = False,
    at_least: Annotated[float, Arg("share of what was annotated that must be there", "SHARE", above=0)] = AT_LEAST,
    json: Json = False,
) -> None:
    """Score a run on a split.

    Score the EMA weights of a run on every example of a split, once each: those of its best checkpoint where it was
    validated while it trained, else of its last; RUN may be a checkpoint's folder, too. Several processes share the
    batches and write what one would. A split that lost more than a hundredth of its annotations when it was built is no
    split to report: it is refused, and --at-least 0.5 scores what is there and tells both numbers.

    For example:
      laconvnet eval runs/first --data shards/refcoco --split testA --controls
    """
    from laconvnet.pipeline.inference.evaluate import evaluate
    from laconvnet.pipeline.runs.checkpoints import run_of

    out = out or run_of(run) / EVALUATIONS / f"{data.resolve().name}-{split}.json"
    report = evaluate(run, data, split, out, controls, at_least=at_least, last=last, explain=explain)
    if report is not None:  # of several processes the main one alone has it
        show(report, json)


def predict(
    run: Run,
    *,
    image: Annotated[Path, Arg("image file", "F")],
    text: Annotated[str, Arg("an expression, or a question", "T")],
    out: Annotated[Path | None, Arg("image file for the drawing, such as answer.png", "F")] = None,
    explain: Annotated[Path | None, Arg("file for the sheet of `laconvnet explain`, .html or .png", "F")] = None,
    last: Last = False,
    json: Json = False,
) -> None:
    """Ask a run about one image.

    The answer of a run to one sentence on one image; --out draws it, --explain writes what the words did.

    For example:
      laconvnet predict runs/first --image photo.jpg --text "the dog on the left" --out answer.png
    """
    from laconvnet.pipeline.inference import predict as asking

    show(asking.predict(run, image, text, out, last, explain), json)


def explain(
    run: Run,
    *,
    image: Annotated[Path, Arg("image file", "F")],
    text: Annotated[str, Arg("an expression, or a question", "T")],
    at: Annotated[
        Sequence[str],
        Arg("pixel of the image whose filters are shown, again for each further one", "X,Y", append=True),
    ] = (),
    out: Annotated[Path | None, Arg("file for the sheet: a page (.html) or an image (.png)", "F")] = None,
    last: Last = False,
    json: Json = False,
) -> None:
    """Show what a run made of the words.

    The answer of a run to one sentence on one image, the words as it reads them, and by stage how much its filters
    differ from place to place. --out writes a sheet: where each word weighs how much, by stage and head, and the
    filters at some pixels (v2 Fig. 6 and 7). Without --at these are the middle of the answer and one of the background.

    For example:
      laconvnet explain runs/first --image photo.jpg --text "the dog on the left" --out dog.html
    """
    from laconvnet.pipeline.inference import predict as asking

    show(asking.explained(run, image, text, at, out, last), json)


def report(
    place: Annotated[Sequence[Path], Arg("folders of runs, or of a launched stage graph", "RUN_OR_STAGES")],
    *,
    out: Annotated[Path | None, Arg("HTML file (default: report.html in the first folder)", "F")] = None,
    json: Json = False,
) -> None:
    """Write the HTML report of runs.

    One self-contained HTML page: loss curves, metrics, images with predicted and true answers.

    For example:
      laconvnet report runs/demo
      laconvnet report runs/seed-0 runs/seed-1 runs/seed-2 --out seeds.html
    """
    from laconvnet.pipeline.report import page

    file = out or place[0] / REPORT
    table = page.report(place, file)
    if json:
        show({"page": str(file), "results": page.results(place)}, json)
    else:
        say(table, end="")
