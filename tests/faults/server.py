"""Runs command lines in forks of a process that has imported what they need, each with one fault of the file system.

Started with the library of faults.c preloaded. Reads a JSON object a line (argv, variables, log, counts), answers each
with the exit code of its process; `counts` names a file for how many calls of each kind there were.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback

_DEADLINE_SECONDS = 240
_NEEDED = (
    *("deepspeed", "accelerate", "transformers", "torch._dynamo", "torch.utils.tensorboard"),
    *("laconvnet.launch.cli", "laconvnet.launch.executor", "laconvnet.pipeline.training.loop"),
    *("laconvnet.pipeline.inference.evaluate", "laconvnet.shards.build.heal", "laconvnet.shards.sources.refer"),
    *("laconvnet.shards.sets.info", "laconvnet.shards.sets.merge"),
)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # DeepSpeed prints while it is imported
    for name in _NEEDED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if not process:
            _run(**request)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _run(argv: list[str], variables: dict[str, str], log: str, counts: str) -> None:
    from laconvnet import terminal
    from laconvnet.launch import cli

    faults = ctypes.CDLL(None)
    signal.alarm(_DEADLINE_SECONDS)  # what hangs is killed
    os.environ.update(variables)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    faults.faults_armed()
    terminal.install()  # as the console script does
    code = 70
    try:
        code = cli.main(argv)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        faults.faults_counts(os.open(counts, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        os._exit(code)


if __name__ == "__main__":
    main()
