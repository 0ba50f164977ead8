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
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from laconvnet.launch.graph.faults import Faults
from laconvnet.launch.graph.references import RESERVED, filled, filled_in

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _key(name: str) -> str:
    if not _KEY.fullmatch(name) or name in RESERVED:
        raise ValueError(name)
    return name


def _free(name: str, info: ValidationInfo) -> str:
    assert info.context is not None
    if name in info.context:  # the file's values
        raise ValueError(name)
    return _key(name)


_OTHER = f"letters, digits and '_' other than {' and '.join(RESERVED)}"
Values = Annotated[
    dict[Annotated[str, AfterValidator(_key)], Annotated[str, Field(description=f"a text under a name of {_OTHER}")]],
    Field(description="a mapping of names to texts"),
]
Choices = Annotated[
    dict[
        Annotated[str, AfterValidator(_free)],
        Annotated[
            list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value), Field(min_length=1)
        ],
    ],
    Field(
        min_length=1,
        description="a mapping of names that nothing else has, such as 'set', each to a list of texts, or several",
    ),
]


@dataclass(frozen=True)
class _Block:
    each: Choices = field(default_factory=dict)


def values(written: Any, given: Mapping[str, str], faults: Faults) -> dict[str, str]:
    """The file's `values`, those given in their place; of what is wrong with the file's there is no further fault."""
    written = written if isinstance(written, dict) else {}
    for key in given:
        if key not in written:
            faults.add(f"--set {key}: the file has no such value; expected one of {', '.join(written) or 'none'}")
    found: dict[str, str] = {}
    for key, text in written.items():
        found[key] = filled(given.get(key, str(text)), found)
    return found


def expand(entries: Mapping[str, Any], known: Mapping[str, str], faults: Faults) -> dict[str, tuple[str, Any]]:
    """Stage name -> the name it is written under and its entry: every value put in, `each` taken apart."""
    found: dict[str, tuple[str, Any]] = {}
    for written, entry in entries.items():
        at = ("stages", written)
        combinations: list[dict[str, str]] = [{}]
        if isinstance(entry, dict) and "each" in entry:
            combinations = list(_combinations(written, entry["each"], known, faults))
            entry = {key: part for key, part in entry.items() if key != "each"}
        for one in combinations:
            name = filled(written, {**known, **one})
            if name in found:
                message = f"two stages are called {name!r}; expected a name with every key of each"
                faults.add(f"stage {written!r}: {message}", at)
            if name in known:
                faults.add(f"stage {name!r}: values has a key of that name; rename one of them", at)
            found[name] = written, filled_in(entry, {**known, **one})
    return found


def _combinations(name: str, each: Any, known: Mapping[str, str], faults: Faults) -> Iterator[dict[str, str]]:
    """One mapping of the keys of `each` to texts for every stage it stands for."""
    for block in each if isinstance(each, list) and each else [each]:
        where = ("stages", name), f"stage {name!r}: "
        choices = faults.check(_Block, {"each": block}, *where, context=known).each
        for parts in itertools.product(*choices.values()) if choices else ():
            yield {key: filled(part, known) for key, part in zip(choices, parts, strict=True)}
