"""What may differ between a run and its resumption, and the seal over all that may not.

Three kinds of keys: those that shape what is learned keep their values; those that say where something lies (the set,
vectors, weights) may say it in other words, for what lies there is compared by its content or is in the checkpoint
already; all others are free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from laconvnet.files import publish_text
from laconvnet.pipeline import config as configuration
from laconvnet.pipeline import yaml_files
from laconvnet.pipeline.config import TrainConfig
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs.checkpoints import read_marker
from laconvnet.pipeline.runs.layout import CONFIG

_FREE = (
    *("engine.", "guard.", "checkpoint.", "log.", "validate.", "data.threads", "data.hw_decoder_load", "data.patience"),
    *("data.cache", "optimizer.implementation", "init_from"),
)
_SHAPING = ("engine.accumulate",)  # batch norm sees one micro-batch at a time
LOCATIONS = ("data.folder", "data.vectors", "model.backbone_weights")


@dataclass(frozen=True)
class Difference:
    """A key whose value is not that of the run's first start; ``allowed`` where it may differ."""

    key: str
    before: Any
    now: Any
    allowed: bool


def may_differ(key: str) -> bool:
    """Whether a resumption may set this key to another value: nothing of it changes what is learned."""
    return key.startswith(_FREE) and key not in _SHAPING


def differences(config: TrainConfig, file: Path) -> list[Difference]:
    """How a configuration differs from the ``file`` of a run, key by key."""
    # What an older version did not write yet had the value that is the default now.
    before, now = (configuration.flat(found) for found in (configuration.load(file), config))
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if old != new:
            moved = key in LOCATIONS and None not in (old, new)
            found.append(Difference(key, old, new, moved or may_differ(key)))
    return found


def check(config: TrainConfig, file: Path) -> None:
    """Raises ConfigError when a run was started with another configuration in anything that shapes what it learns."""
    for found in differences(config, file):
        if not found.allowed:
            raise ConfigError(
                f"{file}: {found.key} is {found.before!r} in this run but {found.now!r} is asked for; "
                "a run keeps its configuration: give another --run folder for another one"
            )


def seal(file: Path) -> str:
    """The checksum of all that shapes what a run learns, out of its configuration ``file``.

    It is of the keys as they stand there: a version that knows more keys finds the same. Raises ConfigError.
    """
    return _sealed(configuration.flat(yaml_files.tree(file)))


def seal_of(config: TrainConfig) -> str:
    """The seal of the file that this configuration would be written as."""
    return _sealed(configuration.flat(config))


def check_seal(config: TrainConfig, run: Path, folder: Path) -> None:
    """Raises ConfigError where a checkpoint was saved under another configuration than the run's file now holds.

    A file that is gone does no harm where the same configuration is asked for again.
    """
    file, sealed = run / CONFIG, read_marker(folder).config
    if file.exists():
        if sealed is not None and sealed != seal(file):
            raise ConfigError(
                f"{file}: is not the configuration that {folder.name} was saved under: a key that shapes what is "
                "learned was changed since; put the file back as it was, or start another --run"
            )
    elif sealed is None:
        raise ConfigError(
            f"{file}: is gone, and {folder.name} does not say what it was saved under: put the file back (the run's "
            "own command with --print-config writes one)"
        )
    elif sealed != seal_of(config):
        raise ConfigError(
            f"{file}: is gone, and {folder.name} was saved under another configuration than is asked for: put the file "
            "back, or start the run with its own command"
        )


def _sealed(keys: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in keys.items() if key not in LOCATIONS and not may_differ(key)}
    kept |= {key: keys.get(key) is not None for key in LOCATIONS}
    return xxhash.xxh3_128_hexdigest(json.dumps(kept, sort_keys=True, default=str).encode())


def follow(config: TrainConfig, file: Path) -> None:
    """Have the ``file`` of a run say where its data lies now."""
    tree, now = yaml_files.tree(file), configuration.flat(config)
    moved = [key for key in LOCATIONS if configuration.flat(tree).get(key) != now[key]]
    for key in moved:
        group, _, name = key.partition(".")
        tree.setdefault(group, {})[name] = now[key]
    if moved:
        publish_text(file, configuration.as_yaml(tree))
