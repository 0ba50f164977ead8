"""What became of the entries of the sets that a launch or a report knows of, out of the ledgers in their manifests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from laconvnet.files import names_in
from laconvnet.pipeline.report.gather import Gathered
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import ENTRY_KINDS, MANIFEST, Ledger, lost_by_fault, read_meta


@dataclass(frozen=True)
class Account:
    """One kind of entry in one split: so many were read and kept; the rest was lost, by a fault or by a rule.

    The losses are numbers by cause.
    """

    split: str
    kind: str
    read: int
    kept: int
    by_fault: dict[str, int]
    by_rule: dict[str, int]

    @property
    def lost(self) -> int:
        """How many were lost by faults."""
        return sum(self.by_fault.values())


@dataclass(frozen=True)
class Ledgers:
    """The ledger of a built set, or those of the parts of one that was put together, by name ("" for the set itself).

    ``note`` says why there is none.
    """

    folder: Path
    parts: dict[str, tuple[Account, ...]]
    note: str = ""


def sets_in(folder: Path) -> list[Path]:
    """The finished sets that a folder is, or that lie directly below it."""
    places = (folder, *(folder / name for name in names_in(folder)))
    return [place for place in places if (place / MANIFEST).is_file()]


def sets_of(found: Gathered) -> list[Ledgers]:
    """The sets that were built, trained on or scored on, each once, in this order; those that are gone with a note."""
    built = [place for graph in found.graphs for stage in graph.stages for place in sets_in(stage.folder)]
    trained_on = [Path(run.data) for run in found.runs if run.data]
    scored_on = [Path(evaluation.data) for evaluation in found.evaluations]
    places: dict[str, Path] = {}
    for place in (*built, *trained_on, *scored_on):
        places.setdefault(os.path.realpath(place), place)
    return [ledgers_of(place) for place in places.values()]


def ledgers_of(folder: Path) -> Ledgers:
    """The ledgers of a finished set."""
    try:
        meta = read_meta(folder)
    except (InputError, OSError) as error:
        return Ledgers(folder, {}, str(error))
    if "ledger" in meta:
        return Ledgers(folder, {"": accounts_of(meta["ledger"])})
    parts = {name: accounts_of(ledger) for name, ledger in meta.get("ledgers", {}).items()}
    return Ledgers(folder, parts, "" if parts else "was built before there was a ledger")


def accounts_of(ledger: Ledger) -> tuple[Account, ...]:
    """The accounts of a ledger, split by split."""
    return tuple(_account(ledger, split, kind) for split in ledger for kind in ENTRY_KINDS if kind in ledger[split])


def _account(ledger: Ledger, split: str, kind: str) -> Account:
    found = ledger[split][kind]
    by_fault = lost_by_fault(found)
    by_rule = {cause: number for cause, number in found["lost"].items() if cause not in by_fault}
    return Account(split or "unknown", kind, found["read"], found["kept"], by_fault, by_rule)


def built_losses(folder: Path) -> Iterator[str]:
    """What faults have cost each set that was built in a folder, in words: its pictures, expressions and questions.

    A set that was put together is not built here: its parts are told where they were. A set that cannot be read is
    told with the reason.
    """
    for place in sets_in(folder):
        found = ledgers_of(place)
        lost = [
            one for one in found.parts.get("", ()) if one.lost and one.kind in ("picture", "expression", "question")
        ]
        if lost:
            yield "lost " + ", ".join(f"{one.lost} of {one.read} {one.split} {one.kind}s" for one in lost)
        elif found.note:
            yield found.note
