"""`laconvnet demo`: trained models on a page of this machine."""

from __future__ import annotations

import importlib.util
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from laconvnet.launch import commandline
from laconvnet.launch.commandline import Arg, Json, Last
from laconvnet.launch.commands.output import show
from laconvnet.pipeline.errors import ConfigError
from laconvnet.terminal import say

_EXTRA = ("starlette", "uvicorn")


def add(commands: Any) -> None:
    commandline.add(commands, demo)


def demo(
    run: Annotated[Sequence[Path], Arg("folders of runs or checkpoints, or files of `laconvnet export`", "RUN")],
    *,
    data: Annotated[
        Path | None,
        Arg("a built shard set, or its URL, with example images (default: the first run's)", "DIR", url=True),
    ] = None,
    split: Annotated[
        str | None, Arg("the split of the examples, such as testA (default: that of the first run's validation)", "S")
    ] = None,
    host: Annotated[str, Arg("address that is listened at", "H")] = "127.0.0.1",
    port: Annotated[int, Arg("its port, 0 for a free one", "N", at_least=0)] = 8765,
    last: Last = False,
    open: Annotated[bool, Arg("open the page in this machine's browser")] = False,
    json: Json = False,
) -> None:
    """Ask runs on a page in the browser.

    Choose an example image or upload one, type an expression or a question, and see the box, the mask or the answer as
    you type. A click on a word shows where it weighs, and puts another one in its place. Several runs stand side by
    side. Ctrl-C ends it.

    The page is for this machine alone, and nobody is asked for a password. From another machine, reach it by
    ssh -L 8765:localhost:8765 MACHINE.

    For example:
      laconvnet demo runs/refcoco --data shards/refcoco --split testA
      laconvnet demo runs/refcoco runs/ablation --port 0 --open
    """
    for package in _EXTRA:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"demo: {package} is not installed; pip install 'laconvnet[demo]'")
    from laconvnet.pipeline.demo.start import start

    def begun(page: str) -> None:
        if json:
            show({"page": page}, True)
        else:
            say(page)
        if open:
            webbrowser.open(page)

    start(run, data, split, host, port, last, begun)
