"""The objects of an image of Visual Genome, out of objects.json and attributes.json: merged, and named without doubt.

The rules are those of `shards.sources.visual_genome`. The ledger counts each entry of both files as a region with a box
and an expression; what comes of it: a region of its own or one that is merged into another, an expression that is kept,
merged, or ambiguous because it fits another object too.
"""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laconvnet.shards.format.raw import Fault
from laconvnet.shards.format.record import Box, Expression, Region
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.faults import EntryFault, entry, lost

SPLIT = "train"
OF_REGION = {"region": 1, "expression": 1, "box": 1}  # what the ledger counts of an entry
_OBJECTS, _ATTRIBUTES = "objects.json", "attributes.json"
# Each object of an image is compared with its namesakes; an original image has some hundred entries at most.
_MAX_OBJECTS = 2000


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image stands in the annotation files."""

    root: Path
    image_id: int

    def told(self, file: str) -> str:
        """File and image, for messages."""
        return f"{self.root / file}: image {self.image_id}"


@dataclass(slots=True)
class _Object:
    id: str
    box: Box
    names: tuple[str, ...]
    # The attributes of each entry; a dict because it keeps the order and drops what comes twice.
    entries: dict[tuple[str, ...], None] = field(default_factory=dict)
    merged: int = 0  # entries of the files

    @property
    def attributes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(attribute for entry in self.entries for attribute in entry))

    @property
    def candidates(self) -> list[tuple[str, ...]]:
        """The attributes of each expression that it may have."""
        return ([entry for entry in self.entries if entry] or [()]) if self.names else []


_Namesake = tuple[_Object, frozenset[str]]  # and its attributes in small letters


def object_regions(annotations: dict[str, list[Any]], place: Place, faults: list[Fault]) -> Iterator[Region]:
    """The regions of an image's objects."""
    things = _merged(annotations, place, faults)
    namesakes: dict[str, list[_Namesake]] = defaultdict(list)
    for thing in things:
        attributes_of = frozenset(attribute.casefold() for attribute in thing.attributes)
        for name in {name.casefold() for name in thing.names}:
            namesakes[name].append((thing, attributes_of))
    phrases = {thing.id: list(_phrases(thing, namesakes)) for thing in things}
    faults += _left_out(things, phrases, place)
    for thing in things:
        yield Region(
            id=thing.id,
            split=SPLIT,
            boxes=(thing.box,),
            expressions=tuple(Expression(f"{thing.id}-{index}", text) for index, text in enumerate(phrases[thing.id])),
            category=thing.names[0] if thing.names else None,
            attributes=thing.attributes,
        )


def box_of(given: dict[str, Any], where: str, width: str, height: str) -> Box:
    """The box of an entry, whose keys of width and height differ between files."""
    return reading.box([given.get(key) for key in ("x", "y", width, height)], where)


def plain_object(given: Any, where: str) -> dict[str, Any]:
    """The entry, which has to be a JSON object."""
    if not isinstance(given, dict):
        raise EntryFault("field", f"{where}: an entry is {reprlib.repr(given)}, expected an object")
    return given


def _merged(annotations: dict[str, list[Any]], place: Place, faults: list[Fault]) -> list[_Object]:
    by_id: dict[int, _Object] = {}
    by_key: dict[tuple[Box, tuple[str, ...]], _Object] = {}
    for file in (_OBJECTS, _ATTRIBUTES):
        entries = annotations.get(file, [])
        path, where = place.root / file, place.told(file)
        if len(entries) > _MAX_OBJECTS:
            error = EntryFault("too many", f"{where}: {len(entries)} entries, expected at most {_MAX_OBJECTS}")
            takes = {kind: len(entries) for kind in OF_REGION}
            faults.append(lost(error, "region", "all of them", SPLIT, path, takes))
            continue
        for given in entries:
            known = given if isinstance(given, dict) else {}
            number = known.get("object_id", known.get("id", "unknown"))
            with entry(faults, "region", number, SPLIT, path, OF_REGION):
                _merge(plain_object(given, where), file, where, by_id, by_key)
    by_own_id: dict[str, dict[int, _Object]] = defaultdict(dict)
    for thing in by_key.values():
        by_own_id[thing.id][id(thing)] = thing
    for own_id, things in by_own_id.items():
        if len(things) > 1:
            faults += _of_one_id(own_id, list(things.values()), place)
    return [thing for things in by_own_id.values() for thing in things.values() if len(things) == 1]


def _of_one_id(own_id: str, things: list[_Object], place: Place) -> Iterator[Fault]:
    told = " and ".join(f"{' '.join(thing.names)!r} at {list(thing.box)}" for thing in things[:2])
    error = EntryFault("duplicate id", f"{place.told(_ATTRIBUTES)}: {own_id} occurs twice, with other contents: {told}")
    for thing in things:
        takes = dict.fromkeys(OF_REGION, thing.merged)
        yield lost(error, "region", own_id, SPLIT, place.root / _ATTRIBUTES, takes)


def _merge(
    given: dict[str, Any],
    file: str,
    where: str,
    by_id: dict[int, _Object],
    by_key: dict[tuple[Box, tuple[str, ...]], _Object],
) -> None:
    """Add an entry to the objects."""
    # In version 1.0 an entry of attributes.json has an id of its own, not the object's.
    own_id = file == _ATTRIBUTES and "object_id" not in given
    number = reading.field(given, where, int, "object_id", "id")
    context = f"{where}: object {number}"
    names = _words(reading.field(given, context, list, "names", "object_names"), context)
    key = (box_of(given, context, "w", "h"), names)
    raw_attributes = given.get("attributes")
    attributes = None if raw_attributes is None else _words(reading.field(given, context, list, "attributes"), context)
    found = (None if own_id else by_id.get(number)) or by_key.get(key)
    if found is None:
        found = _Object(f"{'attribute' if own_id else 'object'}-{number}", *key)
    found.merged += 1
    by_key.setdefault(key, found)
    if not own_id:
        by_id[number] = found
    if attributes is not None:
        found.entries[attributes] = None


def _left_out(things: list[_Object], phrases: dict[str, list[str]], place: Place) -> Iterator[Fault]:
    """What the rules leave out, an image's in one fault a cause: the images have some dozens of each."""
    merged = [thing for thing in things if thing.merged > 1]
    doubtful = [thing for thing in things if len(phrases[thing.id]) < len(thing.candidates)]
    nameless = [thing for thing in things if not thing.names]
    regions = sum(thing.merged - 1 for thing in merged)
    said_again = sum(thing.merged - len(thing.candidates) for thing in things if thing.names)
    ambiguous = sum(len(thing.candidates) - len(phrases[thing.id]) for thing in doubtful)
    kinds = {"region": regions, "box": regions, "expression": said_again}
    yield from _fault("merged", "entries that speak of an object that others do", merged, kinds, place)
    yield from _fault(
        "ambiguous", "expressions that fit another object too", doubtful, {"expression": ambiguous}, place
    )
    silent = {"expression": sum(thing.merged for thing in nameless)}
    yield from _fault("blank", "objects without a name", nameless, silent, place)


def _fault(cause: str, what: str, things: list[_Object], takes: dict[str, int], place: Place) -> Iterator[Fault]:
    if not things:
        return
    named = ", ".join(dict.fromkeys(thing.names[0] for thing in things if thing.names))
    error = EntryFault(cause, f"{place.told(_OBJECTS)}: {what}" + (f": {named}" if named else ""))
    kind = "region" if takes.get("region") else "expression"
    ids = " ".join(thing.id for thing in things)
    yield lost(error, kind, ids, SPLIT, place.root / _OBJECTS, takes)


def _phrases(thing: _Object, namesakes: dict[str, list[_Namesake]]) -> Iterator[str]:
    """Phrases that name this object and no other of the image."""
    for attributes in thing.candidates:
        name = thing.names[0]
        wanted = {attribute.casefold() for attribute in attributes}
        if not any(
            other is not thing and wanted <= attributes_of for other, attributes_of in namesakes[name.casefold()]
        ):
            yield " ".join((*attributes, name))


def _words(values: list[Any], where: str) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str):
            raise EntryFault("field", f"{where}: name or attribute {value!r}, expected a string")
    return tuple(dict.fromkeys(word for word in (reading.text(value, where) for value in values) if word))
