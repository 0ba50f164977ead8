"""What the preview shows of a sample: its image, and the regions and questions that match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from laconvnet.images import ImageLimitError, data_uri
from laconvnet.masks import decode
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.areas import SIZES, size_classes
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.record import Box, Record, Region
from laconvnet.shards.pages.choice import Rows
from laconvnet.shards.pages.outline import Outline, outline

COLOURS = ("#ff8c2b", "#3fb7ff", "#9be23d", "#ff5fa2", "#ffe14d", "#b78bff", "#3ee0c0", "#ff6b57")
MOST_ENTRIES = {"expression": 12, "question": 6}  # of a card: an image of Visual Genome has some hundred regions
MOST_TEXTS = 12  # of an entry: a chain of Flickr30k is spoken of in each of five captions, perhaps more than once
_KEPT_SIDE = 160  # an image up to this is embedded as it is and enlarged without smoothing
_LARGEST_SIDE = 480


@dataclass(frozen=True, slots=True)
class Entry:
    """A region with its matching expressions, or a question. Boxes are xywh in pixels of the image.

    ``texts`` are the first of them, ``more`` is the number of the others.
    ``share`` of the image and the class of ``size`` are those of the box around all boxes; without a box there is none.
    ``answers`` are those of several people, the commonest first, with how often each was given.
    """

    number: int
    kind: str
    split: str
    texts: tuple[str, ...]
    more: int = 0
    boxes: tuple[Box, ...] = ()
    outline: Outline | None = None
    size: str | None = None
    share: float | None = None
    about: str = ""
    answer: str | None = None
    answers: tuple[tuple[str, int], ...] = ()

    @property
    def colour(self) -> str:
        """That of its boxes and of its number; of more regions than there are colours two have the same."""
        return COLOURS[(self.number - 1) % len(COLOURS)]


@dataclass(frozen=True, slots=True)
class Card:
    """A sample. ``image`` is a data URI; ``part`` names its set within one that was put together."""

    key: str
    source: str
    part: str
    file_name: str
    image: str
    width: int
    height: int
    entries: tuple[Entry, ...]
    more: int  # entries that match and are not shown

    @property
    def crisp(self) -> bool:
        """Whether it is so small that its pixels are to be seen."""
        return max(self.width, self.height) <= _KEPT_SIDE


def cards(manifest: Manifest, samples: Rows, examples: Rows) -> list[Card]:
    """The cards of these samples (N,), each with those of these examples (M,) that are its own; both are rows.

    Raises InputError for bytes that are not those that were written, and for an image that cannot be decoded.
    """
    places = manifest.example_columns.numbers("sample", examples)
    return [_card(manifest, int(sample), examples[places == sample]) for sample in samples]


def _card(manifest: Manifest, sample: int, examples: Rows) -> Card:
    record = manifest.read_record(sample)
    groups = _groups(manifest, examples)
    of_kind = [[group for group in groups if group.first["kind"] == kind][:most] for kind, most in MOST_ENTRIES.items()]
    entries = [_entry(record, number, group) for number, group in enumerate(chain(*of_kind), 1)]
    sets = manifest.meta["sets"]
    return Card(
        key=record.key,
        source=record.source,
        part=str(sets[manifest.sample(sample, "set")]["name"]) if len(sets) > 1 else "",
        file_name=record.file_name,
        image=_image(manifest, sample),
        width=record.width,
        height=record.height,
        entries=tuple(entries),
        more=len(groups) - len(entries),
    )


def _image(manifest: Manifest, sample: int) -> str:
    data = manifest.read_image(sample)
    try:
        return data_uri(data, _KEPT_SIDE, _LARGEST_SIDE)
    except (ImageLimitError, SyntaxError, OSError) as error:
        where = f"{manifest.folder}: {manifest.sample(sample, 'key')}"
        raise InputError(f"{where}: its image cannot be decoded ({error}); verify the set, build it again") from error


@dataclass(slots=True)
class _Group:
    """Rows of the examples' table that are one entry, as columns of the first and the texts of all."""

    first: dict[str, Any]
    texts: list[str] = field(default_factory=list)


def _groups(manifest: Manifest, examples: Rows) -> list[_Group]:
    names = ("kind", "split", "region", "text", "answer", "answers", "family", "w", "h")
    columns = {name: manifest.example_columns.values(name, examples) for name in names}
    groups: dict[tuple[str, int], _Group] = {}
    for place, row in enumerate(examples.tolist()):
        values = {name: columns[name][place] for name in names}
        # Each question is an entry of its own; its region is -1.
        known = ("expression", values["region"]) if values["kind"] == "expression" else ("question", row)
        groups.setdefault(known, _Group(values)).texts.append(values["text"])
    return list(groups.values())


def _entry(record: Record, number: int, group: _Group) -> Entry:
    first = group.first
    common: dict[str, Any] = {name: first[name] for name in ("kind", "split")}
    common |= {"number": number, "texts": tuple(group.texts[:MOST_TEXTS]), "more": len(group.texts[MOST_TEXTS:])}
    if first["kind"] == "question":
        answers = tuple(Counter(first["answers"]).most_common())
        return Entry(**common, about=first["family"] or "", answer=first["answer"], answers=answers)
    region = record.regions[first["region"]]
    place = int(size_classes(np.array([first["w"]]), np.array([first["h"]]))[0])
    return Entry(
        **common,
        boxes=region.boxes,
        outline=_outline(record, region),
        size=SIZES[place] if region.boxes else None,
        share=first["w"] * first["h"] / (record.width * record.height) if region.boxes else None,
        about=", ".join(_about(region)),
    )


def _about(region: Region) -> Sequence[str]:
    return [*([region.category] if region.category else []), *region.attributes]


def _outline(record: Record, region: Region) -> Outline | None:
    if region.mask is None:
        return None
    try:
        return outline(decode(region.mask, record.height, record.width))
    except ValueError as error:
        raise InputError(f"{record.key}: region {region.id}: {error}; verify the set and build it again") from error
