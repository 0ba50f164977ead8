"""YAML as every room reads it: train configurations, stages files, cluster files, and values of the command line.

What YAML 1.1 would pass over or misread without a word is refused, with file, line and key:

- a key given twice, of which the last would win;
- `12:00:00`, which is 43200 to YAML (base 60), and `010`, which is 8 (base 8);
- an alias that contains itself, and aliases of aliases that stand for more than a file holds.

What YAML documents stays: yes, no, on and off are true and false; `0x10`, `1_000`, `.inf` and dates are what they are.
With `as_text` no scalar is interpreted at all: arguments of a command line arrive as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from laconvnet import configs
from laconvnet.files import read_bytes
from laconvnet.pipeline.errors import ConfigError

BASE = "base"  # of a train configuration: the file that this one overrides
KeyPath = tuple[str | int, ...]  # the keys and list positions that lead to a value

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
# Libraries follow the nesting on C's stack, which ends the process without a word; no file of ours nests ten deep.
MAX_DEPTH = 100
# Written out, that is; a graph of thousands of stages has some hundred thousand.
MAX_VALUES = 2_000_000
_MOST_DIGITS = 64  # in binary, too, an integer of 64 bits has no more
_CLOCK = re.compile(r"(\d+):(\d\d?)(?::(\d\d?))?")


@dataclass(frozen=True)
class Document:
    """The value of a file, and the lines of its keys."""

    file: Path
    value: Any
    _root: yaml.Node | None = field(repr=False)

    def line(self, path: KeyPath) -> int | None:
        """The line, from 1, of the key or list entry at a path, or of the nearest above it that is written."""
        node, line = self._root, None
        for part in path:
            node, mark = _below(node, part)
            line = mark + 1 if mark is not None else line
        return line


def read(file: Path, expected: str = "expected a YAML file", as_text: bool = False) -> Document:
    """Read a YAML file; `expected` ends the message about one that cannot be read.

    A name such as configs/demo/stages.yaml is also found in the package. Raises ConfigError, one line for each thing
    wrong with it.
    """
    file = configs.found(file)
    try:
        value, root, faults = _parsed(read_bytes(file).decode("utf-8"), as_text)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); {expected}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if faults:
        raise ConfigError("\n".join(f"{file}: line {line}: {fault}" for line, fault in faults))
    return Document(file, value, root)


def value(text: str) -> Any:
    """A value of the command line, as a file would give it. Raises ValueError that says what is wrong with it."""
    try:
        found, _, faults = _parsed(text, as_text=False)
    except yaml.YAMLError as error:
        raise ValueError(f"value {text!r} is not YAML") from error
    if faults:
        raise ValueError(f"value {text!r}: {faults[0][1]}")
    return found


def tree(file: Path, _above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a train configuration, laid over those of its `base` (a path from the file's own folder) one by one.

    Raises ConfigError naming the file for one that cannot be read, is not a tree of keys, or is its own base.
    """
    file = configs.found(file)
    found = read(file, "--config expects a YAML file").value
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: holds {type(found).__name__}, expected keys and values such as `seed: 0`")
    if BASE not in found:
        return found
    name = found.pop(BASE)
    if not isinstance(name, str):
        raise ConfigError(f"{file}: {BASE}: {name!r}: expected the path of another configuration file")
    above = (*_above, file.resolve())
    other = file.parent / name
    if other.resolve() in above:
        raise ConfigError(f"{file}: {BASE}: {name}: is this file again, or one that is laid over it")
    return _over(tree(other, above), found)


def clock(text: str) -> str | None:
    """A time of day or a span such as 12:00:00 as a plain number, in words; None for another text."""
    found = _CLOCK.fullmatch(text)
    if not found:
        return None
    first, second, third = (int(part or 0) for part in found.groups())
    if found[3] is None:
        number = 60 * first + second
        return f"as hours and minutes it is {number} minutes, as minutes and seconds {number} seconds"
    seconds = 3600 * first + 60 * second + third
    return f"as hours, minutes and seconds it is {seconds / 60:g} minutes or {seconds} seconds"


def _parsed(text: str, as_text: bool) -> tuple[Any, yaml.Node | None, list[tuple[int, str]]]:
    line = _too_deep(text)
    if line is not None:
        return None, None, [(line, f"nested too deeply, more than {MAX_DEPTH} times; expected a configuration")]
    # libyaml is ten times as fast, and graphs have thousands of stages; what it accepts differs in rare corners.
    loader = (getattr(yaml, "CBaseLoader", yaml.BaseLoader) if as_text else yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, None, []
        faults = list(_faults(root, "", (), set()))
        if not faults and _values(root, {}) > MAX_VALUES:
            faults = [(1, f"aliases stand for more than {MAX_VALUES:,} values; expected a tree that is written out")]
        return (None if faults else _constructed(loader, root)), root, faults
    finally:
        loader.dispose()


def _constructed(loader: Any, root: yaml.Node) -> Any:
    """The value of a tree. Raises YAMLError also for a text that is not what its tag says (`!!bool perhaps`)."""
    try:
        return loader.construct_document(root)
    except (ValueError, LookupError, AttributeError) as error:  # whatever Python makes of it
        raise yaml.YAMLError(f"a number, date or tagged value that is none ({error})") from error


def _too_deep(text: str) -> int | None:
    """The line at which a text nests deeper than MAX_DEPTH, None for one that does not, or is no YAML."""
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)(text)
    depth = 0
    try:
        while (event := loader.get_event()) is not None and depth <= MAX_DEPTH:
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            line = event.start_mark.line + 1
    except yaml.YAMLError:  # what is wrong with it is told by who reads it whole
        return None
    finally:
        loader.dispose()
    return line if depth > MAX_DEPTH else None


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a tree has with every alias written out."""
    if id(node) not in known:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for _, part in node.value]
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]


def _faults(node: yaml.Node, name: str, above: tuple[int, ...], seen: set[int]) -> Iterator[tuple[int, str]]:
    """Line and fault of each thing that must not pass; `name` is the dotted key of this node."""
    line = node.start_mark.line + 1
    if id(node) in above:
        yield line, f"{name}: an alias contains itself; expected a tree"
    if id(node) in seen:
        return
    seen.add(id(node))
    above = (*above, id(node))
    if isinstance(node, yaml.ScalarNode) and (misread := _misread(node)):
        yield line, f"{name}: {misread}" if name else misread
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            yield from _faults(part, name, above, seen)
    elif isinstance(node, yaml.MappingNode):
        first: dict[tuple[str, str], int] = {}
        for key, part in node.value:
            if isinstance(key, yaml.ScalarNode):
                key_line = key.start_mark.line + 1
                if (key.tag, key.value) in first:
                    before = first[key.tag, key.value]
                    yield key_line, f"key {key.value!r} is given twice, first in line {before}; keep one of them"
                first.setdefault((key.tag, key.value), key_line)
                yield from _faults(part, f"{name}.{key.value}" if name else key.value, above, seen)


def _misread(node: yaml.ScalarNode) -> str | None:
    """The message about a number that nobody would have meant; None where all is well."""
    text = node.value
    if node.style or node.tag not in _NUMBERS:
        return None
    if len(text) > _MOST_DIGITS:
        reading = f"is a number of {len(text)} digits; expected at most {_MOST_DIGITS}"
        return f"{text[:10]}... {reading}, or quotes for a text"
    if ":" in text:
        meant = clock(text)
        reading = "is a number in base 60 to YAML; write a plain number" + (f" ({meant})" if meant else "")
    elif _OCTAL.fullmatch(text):
        reading = f"is {int(text.replace('_', ''), 8)} to YAML, which reads it in base 8; write a plain number"
    else:
        return None
    return f"{text} {reading}, or {text!r} in quotes for a text"


def _below(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node | None, int | None]:
    """The node under a key or at an index of another one, and the line, from 0, at which it begins."""
    if isinstance(node, yaml.MappingNode):
        for key, found in reversed(node.value):  # what was merged in stands before what is the mapping's own
            if isinstance(key, yaml.ScalarNode) and key.value == str(part):
                return found, key.start_mark.line
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line
    return None, None


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, found in above.items():
        both = isinstance(found, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], found) if both else found
    return merged
