"""`laconvnet predict` and `explain`: what runs answer to texts about images, and why."""

from __future__ import annotations

import json as encoding
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from laconvnet.launch import commandline
from laconvnet.launch.commandline import Arg, Json, Last, Run
from laconvnet.launch.commands.output import show
from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import complain, say

if TYPE_CHECKING:
    from laconvnet.pipeline.inference.asks import Ask
    from laconvnet.pipeline.inference.predict import Models

_LINES = (".jsonl", ".ndjson")


def add(commands: Any) -> None:
    commandline.add(commands, predict, explain)


def predict(
    run: Annotated[Sequence[Path], Arg("folders of runs or checkpoints, or exported safetensors files", "RUN")],
    *,
    image: Annotated[Sequence[Path], Arg("image files, or folders of them", "F")] = (),
    text: Annotated[str | None, Arg("an expression, or a question, about each --image", "T")] = None,
    asked: Annotated[
        Path | None,
        Arg("what is asked: a .csv, .tsv, .jsonl or .parquet with columns image and text (and id)", "F", flag="--list"),
    ] = None,
    images: Annotated[Path | None, Arg("folder of the images of --list (default: that of the list)", "DIR")] = None,
    out: Annotated[Path | None, Arg("answer.png for the drawing of one answer, answers.jsonl for all", "F")] = None,
    explain: Annotated[Path | None, Arg("the sheet of `laconvnet explain` of one answer, .html or .png", "F")] = None,
    batch: Annotated[int, Arg("how many texts go through the network at once", "N", at_least=1)] = 32,
    threads: Annotated[int, Arg("threads that read images", "N", at_least=1)] = 2,
    resize: Annotated[
        Literal["pillow", "dali"], Arg("what scales images (default: pillow); with dali to the bit as eval")
    ] = "pillow",
    last: Last = False,
    json: Json = False,
) -> int:
    """Ask runs about images.

    The answer of a run to one text about one image; --out answer.png draws it. Of several images, a folder, a --list or
    several runs each answer is one JSON line with the unknown words, in the order of what is asked; --out answers.jsonl
    keeps them, and the same command goes on where it was stopped. What cannot be answered has "error" in its line, and
    the code is then 1.

    For example:
      laconvnet predict runs/first --image photo.jpg --text "the dog on the left" --out answer.png
      laconvnet predict runs/first --image photos --text "the dog" --out answers.jsonl
      laconvnet predict runs/seed-0 runs/seed-1 --list asked.csv --images photos --out answers.jsonl
    """
    from laconvnet.pipeline.inference.predictor import load

    if len({str(each) for each in run}) < len(run):
        raise ConfigError(f"RUN: {' '.join(map(str, run))}: one is there twice; expected each once")
    asks = _asks(image, text, asked, images)
    lines = out is not None and out.suffix.lower() in _LINES
    alone = len(run) == len(asks) == 1 and asked is None and asks[0].image in image and not lines
    if not alone and out is not None and not lines:
        raise ConfigError(f"--out: {out}: expected a name such as answers.jsonl, for the answers of several texts")
    if not alone and explain is not None:
        raise ConfigError(f"--explain: {explain}: is of one text about one image; leave it out")
    models = {str(place): load(place, last=last, resize=resize, batch=batch) for place in run}
    for model in models.values():
        complain(model.origin)
    if alone:
        from laconvnet.pipeline.inference.single import answered

        show(answered(models[str(run[0])], asks[0].image, asks[0].text, out, explain), json)
        return 0
    if out is None:
        return 1 if _said(models, asks, batch, threads) else 0
    from laconvnet.pipeline.inference.predict import to_file

    return 1 if to_file(models, asks, out, batch, threads) else 0


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
    from laconvnet.pipeline.inference.predictor import load
    from laconvnet.pipeline.inference.single import explained

    model = load(run, last=last)
    complain(model.origin)
    show(explained(model, image, text, at, out), json)


def _asks(image: Sequence[Path], text: str | None, asked: Path | None, images: Path | None) -> list[Ask]:
    if asked is not None:
        if image or text is not None:
            raise ConfigError("--list: names images and texts itself; leave out --image and --text")
        from laconvnet.launch import asks

        return asks.of_table(asked, images)
    if not image or text is None:
        raise ConfigError("command line: expected --image and --text, or --list with a table of both")
    if images is not None:
        raise ConfigError(f"--images: {images}: is the folder of a --list; expected --image alone")
    from laconvnet.pipeline.inference.asks import of_images

    return of_images(list(image), text)


def _said(models: Models, asks: Sequence[Ask], batch: int, threads: int) -> int:
    from laconvnet.pipeline.inference.predict import Tally, several

    tally = Tally()
    for lines in several(models, asks, batch, threads):
        tally.add(lines)
        say("\n".join(map(encoding.dumps, lines)))
    tally.tell()
    return tally.faults
