"""What an example is like, for a reader who wants to see some kind of it: its phrase, its object, what is beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from laconvnet.shards.format.areas import SIZES, size_classes
from laconvnet.shards.format.manifest import Manifest

_PLACES = """
left right top bottom upper lower middle center centre corner front back behind above below under over near nearest next
beside between far closest closer first second third last leftmost rightmost edge side
"""
_LOOKS = """
red orange yellow green blue purple violet pink brown black white gray grey gold silver tan beige dark light bright
striped plaid big bigger biggest large larger largest small smaller smallest little tiny tall taller tallest short
shorter shortest long round square wooden metal
"""
# The first kind that a word of the phrase belongs to; one without such a word names its object alone.
_KINDS = {"place": frozenset(_PLACES.split()), "look": frozenset(_LOOKS.split())}
_MANY = 3  # so many others, or more


def traits(manifest: Manifest, answer: Mapping[str, Any]) -> dict[str, str]:
    """The traits of an answered example of a set, by name; a trait that nothing tells of is left out.

    ``phrase``: place, look or name, by the words of an expression; of a question its family. ``size``: COCO's, by the
    true box. ``others``: how many other annotated objects of its category there are in the image.
    """
    row = int(answer["example"])
    if manifest.example(row, "kind") == "question":
        family = manifest.example(row, "family")
        return {"phrase": str(family)} if family else {}
    found = {"phrase": _kind(str(answer["text"]))}
    w, h = (np.array([manifest.example(row, side)], np.float64) for side in ("w", "h"))
    (place,) = size_classes(w, h).tolist()
    if place >= 0:
        found["size"] = SIZES[place]
    regions = manifest.read_record(manifest.example(row, "sample")).regions
    category = regions[manifest.example(row, "region")].category
    if category is not None:
        others = sum(region.category == category for region in regions) - 1
        found["others"] = str(others) if others < _MANY else f"{_MANY} or more"
    return found


def _kind(text: str) -> str:
    words = set(re.findall(r"[a-z]+", text.lower()))
    return next((kind for kind, known in _KINDS.items() if words & known), "name")
