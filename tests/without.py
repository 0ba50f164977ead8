"""Packages that a machine may lack, taken away from a process."""

from __future__ import annotations

_SCRIPT = """
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, *rest):
        return None if name.split(".")[0] in {names!r} else super().find_spec(name, *rest)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def without(*names: str) -> str:
    """The first lines of a script that finds none of these packages."""
    return _SCRIPT.format(names=set(names))
