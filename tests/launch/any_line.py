"""A parser that takes every command line: those of the small program in conftest.py are no commands of laconvnet."""

from __future__ import annotations

import argparse
from pathlib import Path

LINE = argparse.ArgumentParser(add_help=False)
# A configuration that is not there is one that a stage will write: nothing of it is checked.
LINE.set_defaults(takes_keys=True, config=Path("to-be-written.yaml"))
