"""What of a stage's configuration files counts for its identity: their content over that of their bases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laconvnet import configs
from laconvnet.launch.graph.references import REFERENCE
from laconvnet.pipeline.errors import ConfigError


def config_files(run: Sequence[str]) -> dict[int, str]:
    """Position among the arguments of each configuration file -> its name."""
    found = {}
    for position, part in enumerate(run):
        if part.startswith("--config="):
            found[position] = part.removeprefix("--config=")
        elif position and run[position - 1] == "--config":
            found[position] = part
    return found


class Contents:
    """The contents of configuration files, each file read once."""

    def __init__(self) -> None:
        self._known: dict[str, str | ConfigError] = {}

    def of(self, run: Sequence[str]) -> tuple[dict[int, str], list[str]]:
        """Position in `run` of each configuration file's argument -> its content, canonical; and what cannot be had."""
        found, problems = {}, []
        for position, name in config_files(run).items():
            if REFERENCE.search(name):
                continue  # a file that a stage writes: the identity of that stage stands for it
            if not configs.found(name).is_file():
                problems.append(f"{name}: no such file in {Path.cwd()}; expected a YAML file")
                continue
            if name not in self._known:
                self._known[name] = _read(name)
            content = self._known[name]
            if isinstance(content, ConfigError):
                problems.append(str(content))
            else:
                found[position] = content
        return found, problems


def _read(name: str) -> str | ConfigError:
    from laconvnet.pipeline import yaml_files

    try:
        return json.dumps(_canonical(yaml_files.tree(Path(name))), ensure_ascii=False)
    except ConfigError as error:
        return error


def _canonical(value: Any) -> Any:
    """The same for two YAML files that differ in layout, comments or the order of keys only."""
    if isinstance(value, dict):
        pairs = [[type(key).__name__, str(key), _canonical(item)] for key, item in value.items()]
        return ["mapping", *sorted(pairs, key=lambda pair: pair[:2])]
    if isinstance(value, list):
        return ["list", *(_canonical(item) for item in value)]
    return [type(value).__name__, str(value)]
