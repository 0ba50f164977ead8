"""The stages file as it is written, checked: what each key may hold, and what a stage says of the others."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from laconvnet.launch.graph.expansion import Values
from laconvnet.launch.graph.faults import Faults, plain_line
from laconvnet.launch.graph.fingerprint import Contents
from laconvnet.launch.graph.references import REFERENCE, RESERVED
from laconvnet.launch.profile import Profile, check_options
from laconvnet.pipeline.yaml_files import KeyPath

OWN_KEYS = {"partition": "partition", "minutes": "minutes", "cpus_per_task": "threads"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_FILLED = r"\S"

Text = Annotated[str, Field(description="a text")]
Line = Annotated[str, Field(description="a text of one line"), AfterValidator(plain_line)]
Filled = Annotated[str, StringConstraints(pattern=_FILLED), Field(description="a text that is not empty")]
Count = Annotated[int, Field(ge=1, description="a whole number of at least 1")]
Times = Annotated[int, Field(ge=0, description="a whole number of at least 0")]
Minutes = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
Arguments = Annotated[
    tuple[Annotated[str, Field(description="a text or a number")], ...],
    Field(min_length=1, description="the list of arguments after `laconvnet`"),
]
Stages = Annotated[dict[str, Any], Field(min_length=1, description="a mapping of stage names to stages")]
Site = Annotated[dict[str, Any], Field(description="a mapping of keys of a cluster file's profile, such as mem")]
Names = Annotated[tuple[str, ...], Field(description="a list of stage names")]


@dataclass(frozen=True)
class File:
    """The keys of a stages file; `stages` maps names to entries as they are written."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Filled | None = None
    folder: Filled | None = None
    values: Values = field(default_factory=dict)
    stages: Stages = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """The keys of a stage, see `launch.graph.stages`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    run: Arguments = ()
    each: Any = None  # taken out by `launch.graph.expansion` before
    array: Count | None = None
    at_once: Count | None = None
    processes: Count = 1
    threads: Count | None = None
    minutes: Minutes = 24 * 60.0
    nodes: Count | None = None
    gpus: Count = 0
    partition: Line | None = None
    profile: Filled | None = None
    site: Site = field(default_factory=dict)
    restarts: Times | None = None
    title: Text = ""
    needs: Names = ()
    show: Text = ""


@dataclass(frozen=True)
class Spec:
    """A stage's entry and what follows from it and the others."""

    entry: Entry
    given: frozenset[str]  # the keys that the file has
    needs: tuple[str, ...]  # the stages it reads from or waits for, in file order
    order_only: tuple[str, ...]  # those that it says it needs
    configs: Mapping[int, str]  # position in `run` of each configuration file -> its content, canonical
    site: Profile | None  # what it asks of a cluster in place of what the cluster's file says


def check(name: str, entries: Mapping[str, tuple[str, Any]], contents: Contents, faults: Faults) -> Spec:
    """One of the stages, by name -> the name it is written under and its entry; what is wrong is noted."""
    written, raw = entries[name]
    at, where = ("stages", written), f"stage {name!r}: "
    if not _NAME.fullmatch(name) or name in RESERVED:
        allowed = "letters, digits, '_', '.', '+', '-'"
        faults.add(f"{where}expected a name of {allowed} other than {' and '.join(map(repr, RESERVED))}", at)
    entry = faults.check(Entry, raw, at, where, required=("run",))
    for key, message in _contradictions(entry):
        faults.add(f"{where}{key}: {message}", (*at, key))
    order_only = tuple(dict.fromkeys(ref for pattern in entry.needs for ref in _fitting(pattern, name, entries)))
    wanted = {ref: "run" for part in entry.run for ref in REFERENCE.findall(part) if ref not in RESERVED}
    wanted |= dict.fromkeys(order_only, "needs")
    for ref, key in wanted.items():
        if ref not in entries:
            message = f"{key}: {ref!r} is no stage; expected one of {', '.join(entries)}, or here"
            faults.add(where + message, (*at, key))
        elif ref == name:
            faults.add(f"{where}{key}: the stage names itself; write {{here}} for its own folder", (*at, key))
    place = {other: position for position, other in enumerate(entries)} if len(wanted) > 1 else {}
    needs = tuple(sorted((ref for ref in wanted if ref in entries and ref != name), key=lambda ref: place.get(ref, 0)))
    configs, unreadable = contents.of(entry.run)
    for message in unreadable:
        faults.add(f"{where}run: --config {message}", (*at, "run"))
    site = _site(entry, faults, (*at, "site"), where)
    return Spec(entry, frozenset(raw if isinstance(raw, dict) else ()), needs, order_only, configs, site)


def _site(entry: Entry, faults: Faults, at: KeyPath, where: str) -> Profile | None:
    """The keys under `site`, checked; what has a key of the stage's own is not among them."""
    if not entry.site:
        return None
    for key, instead in OWN_KEYS.items():
        if key in entry.site:
            faults.add(f"{where}site: key {key!r}: write {instead} beside site instead", (*at, key))
    site = faults.check(Profile, entry.site, at, f"{where}site: ")
    check_options(site, faults, at, f"{where}site: ")
    return site


def _contradictions(entry: Entry) -> Iterable[tuple[str, str]]:
    """The key of each thing that does not go with the rest of the entry, and what is wrong with it."""
    for ref in REFERENCE.findall(entry.show):
        if ref != "here":
            yield "show", f"{{{ref}}}: expected a file of the stage's own, as in {{here}}/end.txt"
    shared = any("task" in REFERENCE.findall(part) for part in entry.run)
    if shared and not entry.array:
        yield "run", "{task}: only a stage with array has tasks; give it one"
    if entry.run and entry.array and not shared:
        yield "array", "each task would do the same; let run name its share by {task}"
    if entry.at_once and not entry.array:
        yield "at_once", "limits the tasks of an array; give array, or leave it out"


def _fitting(pattern: str, name: str, names: Iterable[str]) -> list[str]:
    """The stages, other than that of the name, whose names fit a pattern with *; else the name itself."""
    if "*" not in pattern:
        return [pattern]
    return [other for other in names if other != name and fnmatch.fnmatchcase(other, pattern)] or [pattern]
