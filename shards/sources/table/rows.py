"""The rows of one picture as regions and questions: each is counted, and kept or lost by a fault of its own.

Box and mask are the region's: where they cannot be read, or its rows tell of two, the region goes as a whole. An
expression that cannot be used is lost alone, and its region with the last of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from laconvnet.shards.format.raw import Account, Fault
from laconvnet.shards.format.record import Box, Expression, Question, Region
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.faults import EntryFault, entry, lost
from laconvnet.shards.sources.masks import box_of
from laconvnet.shards.sources.table import cells
from laconvnet.shards.sources.table.cells import Size
from laconvnet.shards.sources.table.columns import Columns
from laconvnet.shards.sources.table.formats import ROW
from laconvnet.shards.sources.table.sorting import Row

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What is known of a table beside its rows; ``unit`` is what their numbers count, ``twins`` the lost ones by id."""

    path: Path
    unit: str
    columns: Columns
    twins: dict[int, EntryFault] = field(default_factory=dict)

    @cached_property
    def _place(self) -> str:
        return f"{self.path}: {self.unit} "

    @cached_property
    def _stem(self) -> str:
        return self.path.stem

    def where(self, row: Row) -> str:
        """The place of a row, for messages."""
        return f"{self._place}{row[ROW]}"

    def id(self, row: Row) -> str:
        """The id of a row, made of table and number where it has none."""
        return row["id"] or f"{self._stem}-{row[ROW]}"


@dataclass(slots=True)
class Read:
    """What the rows of a picture make: its regions and questions, what was lost, and its splits, that of faults too."""

    regions: list[Region] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)


def read(
    rows: list[Row], tables: list[Facts], account: Account, size: Callable[[], Size | None], blocked: EntryFault | None
) -> Read:
    """Read the rows of one picture, each of its table; ``blocked`` is a fault of the picture that loses all of them.

    ``size`` gives width and height of the picture, for polygons; None where nobody knows.
    """
    found = Read()
    regions: dict[tuple[int, bool, str], list[Row]] = defaultdict(list)
    for row in rows:
        found.splits.add(row["split"] or "")
        facts = tables[row["table"]]
        if _asks(row, facts.columns):
            _question(row, facts, account, found, blocked)
        else:
            regions[row["table"], bool(row["region"]), row["region"] or facts.id(row)].append(row)
    for (table, _, name), of_region in regions.items():
        _Rows(name, of_region, tables[table], account, found).read(size, blocked)
    found.splits.discard("")
    return found


def size_told(rows: list[Row], tables: list[Facts]) -> Size:
    """Width and height of a picture by its rows, 0 where none tells; raises EntryFault where two differ."""
    told = {(row["image_width"], row["image_height"]): row for row in rows if row["image_width"] or row["image_height"]}
    if not told:
        return (0, 0)
    first, *others = told.values()
    where = tables[first["table"]].where(first)
    if others:
        other = tables[others[0]["table"]].where(others[0])
        raise EntryFault("size", f"{where}: the picture is of another size than in {other}")
    width, height = (cells.side(first[name], where, name) for name in ("image_width", "image_height"))
    return (width, height)


def _asks(row: Row, columns: Columns) -> bool:
    """Whether a row is a question: it has one, or could have nothing else."""
    return bool(row["question"]) or "expression" not in columns.named


def _check(row: Row, facts: Facts, blocked: EntryFault | None) -> None:
    """Raise EntryFault for what loses a row, whatever it is."""
    if blocked is not None:
        raise blocked
    if row[ROW] in facts.twins:
        raise facts.twins[row[ROW]]
    if not row["split"]:
        raise EntryFault("split", f"{facts.where(row)}: column {facts.columns.named['split']!r} is empty")


def _question(row: Row, facts: Facts, account: Account, found: Read, blocked: EntryFault | None) -> None:
    split, id, where = row["split"] or "", facts.id(row), facts.where(row)
    account.count(split, question=1)
    with entry(found.faults, "question", id, split, facts.path, {"question": 1}):
        _check(row, facts, blocked)
        if row["expression"]:
            raise EntryFault("field", f"{where}: has an expression and a question, expected one of them")
        text = cells.words(row["question"], where, "question")
        told = cells.answers(row["answer"], row["answers"], where) if facts.columns.has_answers else ()
        found.questions.append(Question(id, split, text, *told))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one region."""

    name: str
    rows: list[Row]
    facts: Facts
    account: Account
    found: Read

    def read(self, size: Callable[[], Size | None], blocked: EntryFault | None) -> None:
        """Count the region, and put it or its faults to what was found."""
        split, splits = self.rows[0]["split"] or "", Counter(row["split"] or "" for row in self.rows)
        boxes, error = self._boxes()
        takes = {"region": 1, "expression": splits[split], **self._shapes(boxes, error)}
        for other, number in splits.items():
            self.account.count(other, **(takes if other == split else {"expression": number}))
        faults: list[Fault] = []
        try:
            if len(splits) > 1:
                names = " and ".join(repr(name) for name in splits)
                raise EntryFault("split", f"{self._where}: region {self.name!r} is in splits {names}, expected one")
            expressions = tuple(self._expressions(split, blocked, faults))
            if error is not None:
                raise error
            self.found.regions.append(self._region(split, boxes, expressions, size, faults))
        except EntryFault as fault:
            for other, number in splits.items():
                kind, gone = ("region", takes) if other == split else ("expression", {"expression": number})
                self.found.faults.append(lost(fault, kind, self.name, other, self.facts.path, gone, self.name))
        else:
            self.found.faults += faults

    @property
    def _where(self) -> str:
        return self.facts.where(self.rows[0])

    def _shapes(self, boxes: tuple[Box, ...] | None, error: EntryFault | None) -> dict[str, int]:
        """How many masks and boxes the region is: one box where it cannot be read, or is that around the mask."""
        mask = int(any(row["mask"] for row in self.rows))
        return {"mask": mask, "box": len(boxes) if boxes is not None else mask if error is None else 1}

    def _expressions(self, split: str, blocked: EntryFault | None, faults: list[Fault]) -> Iterator[Expression]:
        """Those that can be used; raises the first fault where none can."""
        some, first = False, None
        for row in self.rows:
            id = self.facts.id(row)
            try:
                _check(row, self.facts, blocked)
                text = cells.words(row["expression"], self.facts.where(row), "expression")
            except EntryFault as fault:
                first = first or fault
                faults.append(lost(fault, "expression", id, split, self.facts.path, {"expression": 1}, self.name))
                continue
            some = True
            yield Expression(id, text)
        if not some and first is not None:
            raise first

    def _one(self, names: tuple[str, ...], what: str, read: Callable[[tuple[Any, ...], str], T]) -> T | None:
        """What the rows tell in these cells, None where none does. Raises EntryFault where they tell two things."""
        told: dict[tuple[Any, ...], str] = {}
        for row in self.rows:
            cell = tuple(row[name] for name in names)
            if any(cell) and cell not in told:
                told[cell] = self.facts.where(row)
        found = [(read(cell, where), where) for cell, where in told.items()]
        for value, where in found[1:]:
            if value != found[0][0]:
                different = f"region {self.name!r} has another {what} than in {found[0][1]}"
                raise EntryFault("duplicate id", f"{where}: {different}")
        return found[0][0] if found else None

    def _boxes(self) -> tuple[tuple[Box, ...] | None, EntryFault | None]:
        """The boxes of the region, None where no row tells any; and why they cannot be read."""

        def read(given: tuple[Any, ...], where: str) -> tuple[Box, ...]:
            cell, *four = given
            if cell is not None:
                return cells.boxes(cell, where)
            if not all(four):
                raise EntryFault("box", f"{where}: box {four}, expected four numbers")
            return (cells.box(four, bool(self.facts.columns.corners), where),)

        try:
            return self._one(_BOX, "box", read), None
        except EntryFault as error:
            return None, error

    def _region(
        self,
        split: str,
        boxes: tuple[Box, ...] | None,
        expressions: tuple[Expression, ...],
        size: Callable[[], Size | None],
        faults: list[Fault],
    ) -> Region:
        dropped: list[str] = []
        folder, where = self.facts.path.parent, self._where
        mask = self._one(("mask",), "mask", lambda cell, at: cells.mask(cell[0], size, folder, at, dropped))
        if dropped:
            facts = self.name, split, "polygon", "; ".join(dropped), str(self.facts.path), (("mask", 1),), self.name
            faults.append(Fault("mask", *facts, changed=True))
        if boxes is None and mask is None:
            raise EntryFault("box", f"{where}: neither a box nor a mask; [] as box where nothing is meant")
        if boxes is None and mask is not None:
            boxes = (box_of(mask, where),)
        category = next((row["category"] for row in self.rows if row["category"]), None)
        return Region(self.name, split, boxes or (), expressions, mask, category and reading.text(category, where))


_BOX = ("box", "b0", "b1", "b2", "b3")
