"""Configuration files as trees of keys: plain YAML, where `base: other.yaml` names a file that this one overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from laconvnet.pipeline.errors import ConfigError

BASE = "base"


def read(file: Path, _above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The tree of a file, laid over that of its `base` (a path from the file's own folder), key by key.

    Raises ConfigError, one line naming the file, for one that cannot be read, is not a tree of keys, or is its own
    base.
    """
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); --config expects a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: holds {type(tree).__name__}, expected keys and values such as `seed: 0`")
    if BASE not in tree:
        return tree
    name = tree.pop(BASE)
    if not isinstance(name, str):
        raise ConfigError(f"{file}: {BASE}: {name!r}: expected the path of another configuration file")
    place = file.resolve()
    above = (*_above, place)
    other = file.parent / name
    if other.resolve() in above:
        raise ConfigError(f"{file}: {BASE}: {name}: is this file again, or one that is laid over it")
    return _over(read(other, above), tree)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both else value
    return merged
