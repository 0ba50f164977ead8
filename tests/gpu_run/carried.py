"""Packages that came along as wheels, made importable where the machine has none of its own, or an older one.

`make gpu-wheels` fills the folder. A wheel is an archive of what is to lie on the path: nothing is installed.
"""

from __future__ import annotations

import re
import sys
import zipfile
from importlib import metadata
from pathlib import Path

WHEELS = Path("build/gpu-wheels")


def unpack(wheels: Path, target: Path) -> list[str]:
    """Unpack into ``target`` what is lacking and fits this Python; the names."""
    found = []
    for wheel in sorted(wheels.glob("*.whl")):
        name, version, python, abi, _ = wheel.stem.split("-")
        if fits(python, abi) and not _is_installed(name, version):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
            found.append(name)
    return found


def fits(python: str, abi: str) -> bool:
    """Whether a wheel of these tags is for this Python: py2.py3 and none, cp312 and cp312, cp310 and abi3."""
    ours = sys.version_info[:2]
    for tag in python.split("."):
        kind, major, minor = tag[:2], int(tag[2:3] or 0), int(tag[3:] or 0)
        if (kind, major) == ("py", 3) and minor <= ours[1]:
            return True
        if (kind, major) == ("cp", 3) and (minor == ours[1] or (abi == "abi3" and minor <= ours[1])):
            return True
    return False


def _is_installed(name: str, version: str) -> bool:
    try:
        return _numbers(metadata.version(name)) >= _numbers(version)
    except metadata.PackageNotFoundError:
        return False


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:4])
