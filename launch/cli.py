"""The `laconvnet` command: parsing only. Every command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from laconvnet import __version__, terminal
from laconvnet.launch.commands import (
    bench,
    demo,
    kernels,
    machine,
    model,
    predict,
    released,
    runs,
    shards,
    stages,
    training,
)
from laconvnet.pipeline.errors import WRONG_PATH, ConfigError, TrainingError
from laconvnet.shards.errors import BuildError, InputError
from laconvnet.terminal import complain

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130

_ABOUT = """The pretraining pipeline for LaConvNet: raw data sets to shards, training, evaluation and a report.

A first road:
  laconvnet shards generate --out raw --pictures 1000
  laconvnet shards build refcoco --root raw/refer --out shards/refcoco
  laconvnet train --config configs/demo/pretrain.yaml --run runs/first --data.folder shards/refcoco
  laconvnet eval runs/first --data shards/refcoco --split val
  laconvnet report runs/first
"""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        complain(f"{self.prog}: {message}; see `{self.prog} --help`")
        raise SystemExit(MISTAKE)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    result = _Parser(prog="laconvnet", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--version", action="version", version=f"laconvnet {__version__}")
    commands = result.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    for group in (shards, training, predict, demo, runs, stages, model, released, bench, kernels, machine):
        group.add(commands)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 failed while working, 2 the user's mistake, 130 interrupted."""
    line = parser()
    arguments, rest = line.parse_known_args(argv)
    arguments.keys, arguments.line = rest, line
    if rest and not getattr(arguments, "takes_keys", False):
        complain(f"laconvnet: unknown argument {rest[0]!r}; see `laconvnet --help`")
        return MISTAKE
    try:
        return int(arguments.command(arguments) or DONE)
    except (ConfigError, InputError) as error:
        complain(f"laconvnet: {error}")
        return MISTAKE
    except (TrainingError, BuildError) as error:
        complain(f"laconvnet: {error}")
        return FAILED
    except KeyboardInterrupt:
        complain(f"laconvnet: interrupted; {_begun_again(argv)}")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read standard output (head, say) has seen enough.
        sys.stderr.close()
        return DONE
    except OSError as error:
        if error.errno is None or (error.filename is None and isinstance(error, (*WRONG_PATH, ConnectionError))):
            raise  # of our own making: it tells more as it stands
        if isinstance(error, WRONG_PATH):
            complain(f"laconvnet: {error.filename}: {error.strerror}")
            return MISTAKE
        place = error.filename or traceback.extract_tb(error.__traceback__)[-1].filename  # of code, if of no file
        complain(f"laconvnet: {place}: {error.strerror}; {_begun_again(argv)}")
        return FAILED


def _begun_again(argv: Sequence[str] | None) -> str:
    anew = list(argv if argv is not None else sys.argv[1:])[:1] == ["bench"]
    return f"the same command {'begins anew' if anew else 'goes on from what is done'}"


def entry() -> None:
    """The console script."""
    terminal.install()
    raise SystemExit(main())


if __name__ == "__main__":
    entry()
