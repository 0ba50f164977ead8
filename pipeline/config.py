"""The configuration of a run: a tree of frozen dataclasses, each owned by what it configures; YAML overrides it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import jsonargparse
import yaml

from laconvnet.pipeline import yaml_files
from laconvnet.pipeline.data.loader import DataConfig
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.model import ModelConfig
from laconvnet.pipeline.training.checkpoint import CheckpointConfig
from laconvnet.pipeline.training.engine import EngineConfig
from laconvnet.pipeline.training.guard import GuardConfig
from laconvnet.pipeline.training.log_config import LogConfig
from laconvnet.pipeline.training.optimizer import OptimizerConfig
from laconvnet.pipeline.training.schedule import ScheduleConfig
from laconvnet.pipeline.training.validate_config import ValidateConfig
from laconvnet.terminal import complain


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training.

    Args:
        data: What is read and how it is shown.
        model: The network and its task.
        optimizer: Adam and what stands around it.
        schedule: The learning rate over the epochs.
        engine: Precision, sharding and memory.
        guard: What happens at a step that is not finite.
        checkpoint: When to save and what to keep.
        validate: How it is scored while it trains, and what follows from that.
        log: What is reported, and how often.
        init_from: Run folder of an earlier stage whose weights this one starts from: those of its best checkpoint where
            it was validated, else of its last. RUN/checkpoints/last is the last in any case; a checkpoint's folder is
            that one.
        seed: Seeds the order of samples, the initial weights and dropout.
    """

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    log: LogConfig = field(default_factory=LogConfig)
    init_from: str | None = None
    seed: int = 0


def parser() -> jsonargparse.ArgumentParser:
    """The parser of a training configuration; its help lists every key with type, default and meaning."""
    result = jsonargparse.ArgumentParser(prog="laconvnet train", exit_on_error=False, usage=jsonargparse.SUPPRESS)
    result.add_class_arguments(TrainConfig)
    return result


def load(file: Path | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a YAML file with ``--key.sub value`` pairs laid over it.

    Raises ConfigError, one line naming file (or command line), key and value, for whatever does not fit.
    """
    return _made(yaml_files.tree(file) if file else {}, str(file) if file else "", overrides)


def parse(text: str, origin: str) -> TrainConfig:
    """The configuration that `dump` has written into another file, the ``origin``. Raises ConfigError as `load`."""
    try:
        tree = yaml_files.value(text)
    except ValueError as error:
        raise ConfigError(f"{origin}: its configuration cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{origin}: its configuration is {type(tree).__name__}, expected keys and values")
    return _made(tree, origin)


def _made(own: dict[str, Any], file: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Of the keys of a ``file`` (its name, or nothing)."""
    kinds = dict(_kinds(TrainConfig))
    command_line = _by_new_names(_flat(_overrides(overrides, kinds)), "command line")
    of_file = _by_new_names(_flat(own), file)
    tree: dict[str, Any] = {}
    for key, value in {**of_file, **command_line}.items():
        origin = _origin(key, file, command_line)
        if is_dataclass(kinds.get(key)):
            raise ConfigError(f"{origin}: {key}: {value!r}: expected a group of keys, or leave it out")
        # `preset: 10` and a folder named 2024 are numbers to YAML.
        _put(tree, key, str(value) if _is_text(kinds.get(key)) and type(value) is int else value, origin)
    check = parser()
    try:
        ready = check.instantiate(check.parse_object(tree))
        ready.model.check()
        ready.validate.check(ready.model.task)
    except ConfigError as error:
        raise ConfigError(f"{_origin(str(error).partition(':')[0], file, command_line)}: {error}") from error
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        key, message = _explain(str(error))
        origin = _origin(key, file, command_line)
        raise ConfigError(f"{origin}: {message}; `laconvnet train --help-keys` lists every key") from error
    return TrainConfig(**vars(ready))


def dump(config: TrainConfig) -> str:
    """The whole configuration as YAML that `load` reads back."""
    return as_yaml(asdict(config))


def as_yaml(tree: dict[str, Any]) -> str:
    """A tree of keys as YAML, in its order."""
    return yaml.safe_dump(_plain(tree), sort_keys=False)


def flat(config: TrainConfig | dict[str, Any]) -> dict[str, Any]:
    """Every value by its dotted key, as YAML would give it; of a configuration, or of a tree of keys."""
    return _flat(config if isinstance(config, dict) else _plain(asdict(config)))


def _by_new_names(keys: dict[str, Any], origin: str) -> dict[str, Any]:
    """The keys, those of older versions under the names that they have now."""
    best = keys.pop("checkpoint.best", None)
    if best is not None:
        _tell_once(
            f"{origin}: checkpoint.best: {best}: now called validate.metric, with validate.keep_best; it is read"
        )
        keys.setdefault("validate.metric", best)
    return keys


@functools.cache
def _tell_once(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        complain(line)


def _overrides(words: Sequence[str], kinds: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    rest = list(words)
    while rest:
        name = rest.pop(0)
        if not re.match(r"--[^=]", name):
            raise ConfigError(f"command line: {name!r}: expected `--key.sub value`")
        key, joined, text = name[2:].partition("=")
        if not joined:
            if not rest:
                raise ConfigError(f"command line: --{key}: a value is missing")
            text = rest.pop(0)
        try:
            value = yaml_files.value(text)
        except ValueError as error:
            if not _is_text(kinds.get(key)):
                raise ConfigError(f"command line: --{key}: {error}") from error
            value = text
        # A text stays as it was typed, whatever else YAML would make of it (10, no, 2024-01-01).
        values[key] = text if _is_text(kinds.get(key)) and not isinstance(value, str | None) else value
    return values


def _kinds(group: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key and its type, groups included."""
    for name, kind in get_type_hints(group).items():
        yield prefix + name, kind
        if isinstance(kind, type) and is_dataclass(kind):
            yield from _kinds(kind, f"{prefix}{name}.")


def _is_text(kind: Any) -> bool:
    return kind in (str, str | None)


def _origin(key: str, file: str, command_line: Collection[str]) -> str:
    typed = any(name == key or name.startswith(f"{key}.") for name in command_line)
    return "command line" if typed or not file else file


def _put(tree: dict[str, Any], key: str, value: Any, origin: str) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{origin}: {key}: {part} is a value, not a group of keys")
    tree[last] = value


def _explain(message: str) -> tuple[str, str]:
    """The key that a message of the parser speaks of, and the message in one line beginning with it."""
    message = " ".join(message.split())
    if unknown := re.search(r"(?:Group '([^']*)' does not accept option|Option) '([^']*)'", message):
        key = ".".join(part for part in unknown.groups() if part)
        return key, f"{key}: no such key"
    if missing := re.search(r"following arguments are required: ([\w.]+)", message):
        return missing[1], f"{missing[1]}: missing; it has no default"
    if wrong := re.match(r'Parser key "([^"]*)": (.*)', message):
        explanation = re.sub(r"<class '(\w+)'>", r"\1", wrong[2]).replace("a typing.Literal", "one of ")
        explanation = re.sub(
            r"^Does not .* Subtypes: \[(.*)\] Errors: .* Given value: ", r"Expected \1. Got value: ", explanation
        )
        return wrong[1], f"{wrong[1]}: {explanation}"
    return "", message


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
