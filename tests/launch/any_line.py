"""A parser that takes every command line: those of the small program in conftest.py are no commands of laconvnet."""

from __future__ import annotations

import argparse

LINE = argparse.ArgumentParser(add_help=False)
LINE.set_defaults(takes_keys=True)
