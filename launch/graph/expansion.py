"""What makes a stages file short: `values`, which a launch may change, and stages that stand for several.

    values:
      raw: /data                 # `launch --set raw=/scratch/data` wins
      refer: "{raw}/refer"       # a value may name those before it
    stages:
      "shards-{set}":
        each: {set: [refcoco, refcocog]}
        run: [shards, build, "{set}", --root, "{refer}", --out, "{here}/{set}"]
      "eval-{set}-{split}":
        each:
          - {set: refcoco, split: [val, testA, testB]}
          - {set: refcocog, split: [val, test]}
        run: [eval, "{train}", --data, "{shards-{set}}/{set}", --split, "{split}"]

A stage with `each` is one stage for every combination of its lists (of every mapping, where it is a list of these), in
the order of writing. Values and names of `each` are put in before anything else is looked at, in names too, so that
`{shards-{set}}` becomes `{shards-refcoco}`, the folder of that stage.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REFERENCE = re.compile(r"\{([A-Za-z0-9_][A-Za-z0-9_.+-]*)\}")
RESERVED = ("here", "task")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def kind(value: Any) -> str:
    """How a wrong value is named in a message."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return repr(value)


def values(file: Path, written: Any, given: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """The file's `values` with those given in their place; what is wrong goes to `problems`."""
    if written is None:
        written = {}
    if not isinstance(written, dict):
        problems.append(f"{file}: values: got {kind(written)}, expected a mapping of names to texts")
        written = {}
    known = ", ".join(map(str, written)) or "none"
    problems += [
        f"{file}: --set {key}: the file has no such value; expected one of {known}"
        for key in given
        if key not in written
    ]
    found: dict[str, str] = {}
    for key, text in (written | {key: text for key, text in given.items() if key in written}).items():
        if _is_key(key) and isinstance(text, str):
            found[key] = filled(text, found)
        else:
            told = f"values: {key}: got {kind(text)}, expected a text under a name of letters, digits and '_'"
            problems.append(f"{file}: {told} other than {' and '.join(RESERVED)}")
    return found


def expand(file: Path, entries: Mapping[str, Any], known: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """Stage name -> entry, with every value put in and one entry for each combination of an `each`."""
    found: dict[str, Any] = {}
    for name, entry in entries.items():
        each = entry.get("each") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and "each" in entry:
            entry = {key: part for key, part in entry.items() if key != "each"}
            combinations = _combinations(f"{file}: stage {name!r}", each, known, problems)
        else:
            combinations = [{}]
        for one in combinations:
            chosen = {**known, **one}
            called = filled(name, chosen)
            if called in found:
                problems.append(
                    f"{file}: stage {name!r}: two stages are called {called!r}; expected a name with every key of each"
                )
            if called in known:
                problems.append(f"{file}: stage {called!r}: values has a key of that name; rename one of them")
            found[called] = _filled(entry, chosen)
    return found


def filled(text: str, known: Mapping[str, str]) -> str:
    """The text with the names that are known put in; other braces stay."""
    return REFERENCE.sub(lambda match: known.get(match[1], match[0]), text)


def _filled(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return filled(value, known)
    if isinstance(value, list):
        return [_filled(part, known) for part in value]
    if isinstance(value, dict):
        return {key: _filled(part, known) for key, part in value.items()}
    return value


def _combinations(where: str, each: Any, known: Mapping[str, str], problems: list[str]) -> list[dict[str, str]]:
    """One mapping of the keys of `each` to texts for every stage it stands for."""
    found: list[dict[str, str]] = []
    for block in each if isinstance(each, list) and each else [each]:
        if not isinstance(block, dict) or not block:
            problems.append(
                f"{where}: each: got {kind(block)}, expected a mapping of names to lists, or a list of such"
            )
            continue
        choices = {key: part if isinstance(part, list) else [part] for key, part in block.items()}
        wrong = [key for key, parts in choices.items() if not (parts and all(isinstance(one, str) for one in parts))]
        problems += [f"{where}: each: {key}: got {kind(block[key])}, expected a list of texts" for key in wrong]
        taken = [key for key in choices if not _is_key(key) or key in known]
        problems += [f"{where}: each: {key!r}: expected a name that nothing else has, such as 'set'" for key in taken]
        if not wrong and not taken:
            found += _product(choices, known)
    return found


def _product(choices: Mapping[str, list[str]], known: Mapping[str, str]) -> Iterator[dict[str, str]]:
    for parts in itertools.product(*choices.values()):
        yield {key: filled(part, known) for key, part in zip(choices, parts, strict=True)}


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and _KEY.fullmatch(key) is not None and key not in RESERVED
