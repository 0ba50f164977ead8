"""What the columns of a table mean: their names, which of them are needed, and the help that teaches them.

Names are taken without regard to case; blanks and dashes in them are underscores.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from laconvnet.shards.errors import InputError

# What a row can tell, each under its own name and those that others give it.
NAMES: dict[str, tuple[str, ...]] = {
    "picture": ("picture", "image", "file_name", "filename", "image_path", "path"),
    "expression": ("expression", "text", "caption", "sentence", "phrase"),
    "question": ("question",),
    "answer": ("answer",),
    "answers": ("answers",),
    "box": ("box", "bbox", "boxes"),
    "mask": ("mask", "segmentation"),
    "region": ("region", "region_id", "ref_id", "ann_id"),
    "category": ("category", "label", "class"),
    "split": ("split",),
    "id": ("id",),
    "image_width": ("image_width",),
    "image_height": ("image_height",),
}
# A box in four columns: left and upper edge with width and height, or with the right and lower edge.
SIDES = (("x", "y", "w", "h"), ("x", "y", "width", "height"))
CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
# Their values may be lists and objects, in Parquet and JSON lines; all others are texts or numbers.
NESTED = frozenset(("box", "mask", "answers"))

HELP = (
    "a table, or a folder of tables: CSV, TSV, JSON lines (.jsonl) or Parquet; train.csv, val.parquet, ... are splits",
    f"picture: path below --images, or below the folder of the table (also {', '.join(NAMES['picture'][1:])})",
    f"expression: what is said of the region (also {', '.join(NAMES['expression'][1:])})",
    "x,y,w,h or x1,y1,x2,y2 or xmin,ymin,xmax,ymax: its box in pixels; or box: [x, y, w, h], several as a list of "
    "lists, [] where nothing is meant (also bbox, boxes)",
    "mask: COCO's run lengths or polygons as JSON, or the path of a PNG below the folder of the table (also "
    "segmentation); without a box that around the mask is taken",
    "question, answer: instead of expression and box; answers: several, as a JSON list or with | between",
    "split: if it is not in the name of the table; train without either",
    f"region: rows of a picture with the same one share box and mask (also {', '.join(NAMES['region'][1:])})",
    f"category: what the region is (also {', '.join(NAMES['category'][1:])}); id: of the row, unique in its table",
    "image_width, image_height: compared with the picture; with them polygons need no look at it",
)
_REGION_NEEDS = "one of box, x,y,w,h, x1,y1,x2,y2 or mask"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one table: the header's name for each role, and the four of the box where it has four."""

    named: dict[str, str]
    sides: tuple[str, ...] = ()
    corners: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def used(self) -> dict[str, str]:
        """The header's name of each cell that is read: roles, and b0 to b3 for the numbers of a box."""
        return self.named | {f"b{place}": name for place, name in enumerate(self.sides or self.corners)}

    @property
    def has_answers(self) -> bool:
        """Whether the table tells answers; where it does not they are hidden, as those of a test split."""
        return "answer" in self.named or "answers" in self.named


def columns(header: Sequence[str], path: Path) -> Columns:
    """What the columns of a table mean.

    Raises InputError where one that is needed is not there, and where two say the same; it names what was found.
    """
    original = by_plain_name(header, path)
    named = by_role(NAMES, original, path)
    sides, corners = _four(SIDES, original), _four(CORNERS, original)
    ways = [way for way in (named.get("box", ""), ", ".join(sides), ", ".join(corners)) if way]
    if len(ways) > 1:
        raise InputError(f"{path}: columns {' and '.join(map(repr, ways))} all tell the box; rename those that do not")
    _need(named, bool(ways), header, path)
    known = {*named.values(), *sides, *corners}
    return Columns(named, sides, corners, tuple(name for name in header if name not in known))


def by_plain_name(header: Sequence[str], path: Path) -> dict[str, str]:
    """The header's names by what is compared of them. Raises InputError where one is there twice."""
    plain = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in header]
    twice = [name for name, count in Counter(plain).items() if count > 1]
    if twice:
        raise InputError(f"{path}: column {twice[0]!r} is there twice; rename one")
    return dict(zip(plain, header, strict=True))


def by_role(roles: Mapping[str, Sequence[str]], original: Mapping[str, str], path: Path) -> dict[str, str]:
    """The header's name for each role that has one, of the names that roles take; ``original`` is of `by_plain_name`.

    Raises InputError where two columns tell the same.
    """
    named: dict[str, str] = {}
    for role, names in roles.items():
        there = [name for name in names if name in original]
        if len(there) > 1:
            raise InputError(f"{path}: columns {' and '.join(map(repr, there))} both tell the {role}; rename one")
        named.update((role, original[name]) for name in there)
    return named


def _four(ways: Sequence[tuple[str, ...]], original: dict[str, str]) -> tuple[str, ...]:
    """The four columns of a box by the first of these ways that is there whole."""
    return next((tuple(original[name] for name in way) for way in ways if original.keys() >= set(way)), ())


def _separated(header: Sequence[str]) -> str:
    """What to say of a header that is one column because other marks stand between its names."""
    mark = next((mark for mark in ";\t,|" if len(header) == 1 and mark in header[0]), None)
    return f", with {mark!r} between names, where .csv has a comma and .tsv a tab: save it so" if mark else ""


def _need(named: dict[str, str], has_box: bool, header: Sequence[str], path: Path) -> None:
    found = f"; found {', '.join(header) or 'no column'}{_separated(header)}"
    if "picture" not in named:
        raise InputError(f"{path}: no column picture{found}; any of {', '.join(NAMES['picture'])} would do")
    if "expression" not in named and "question" not in named:
        wanted = f"any of {', '.join(NAMES['expression'])} with {_REGION_NEEDS}, or question"
        raise InputError(f"{path}: no column expression or question{found}; {wanted} would do")
    if "expression" in named and "question" not in named and not has_box and "mask" not in named:
        raise InputError(
            f"{path}: no box and no mask for column {named['expression']!r}{found}; {_REGION_NEEDS} would do"
        )
