"""The brakes of a build: how much of a data set may be lost before the set is not published.

A loss counts where it is a fault; what the rules of a data set leave out (`shards.format.raw.BY_RULE`) does not.
Each split is judged by itself, for a small test split is where a loss does most harm: by its pictures, and by its
entries, which are regions, expressions and questions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.ledger import ITEMS, Ledger, faults_of, lost_by_fault
from laconvnet.shards.format.manifest import Manifest

_LOG = logging.getLogger(__name__)
_LISTED = 10
_WORTH_A_SHOUT = 0.01


@dataclass(frozen=True, slots=True)
class Brake:
    """``strict``: nothing may be lost. ``at_most``: the share that may be lost of any split, 0 to 1; None for all."""

    strict: bool = False
    at_most: float | None = None

    def judge_finished(self, manifest: Manifest) -> None:
        """As `judge`, of a set that is published; raises InputError too where it is older than the ledger."""
        if "ledger" in manifest.meta:
            self.judge(manifest.folder, manifest.meta["ledger"], manifest.quarantine())
        elif self != NO_BRAKE:
            raise InputError(
                f"{manifest.folder}: was built before there was a ledger, so that nobody knows what was lost; build it "
                "again in another folder, or leave out --strict and --at-most-lost"
            )

    def judge(self, folder: Path, ledger: Ledger, quarantine: pa.Table) -> None:
        """Raise InputError with the first rows of the table where more is lost than may be; warn above 1 %."""
        faults = faults_of(quarantine)
        if self.strict and len(faults):
            raise InputError(
                f"{folder}: --strict: {len(faults)} faults in the annotations or images: {_listed(faults)}; mend them, "
                "or build without --strict: what is written stays, and that ends quickly"
            )
        for what, lost, read in lost_shares(ledger):
            told = f"{folder}: {what}: {lost} of {read} lost ({100 * lost / read:.3g} %)"
            if self.at_most is not None and lost > self.at_most * read:
                raise InputError(
                    f"{told}, --at-most-lost is {100 * self.at_most:g} %: {_listed(faults)}; mend them, or allow more: "
                    "what is written stays, and that ends quickly"
                )
            if lost > _WORTH_A_SHOUT * read:
                why = "quarantine.parquet says why, and the same command takes in what is there later"
                _LOG.warning("%s", f"{told}: MORE THAN 1 % IS LOST; {why}")


NO_BRAKE = Brake()


def lost_shares(ledger: Ledger) -> Iterator[tuple[str, int, int]]:
    """What of each split is lost by a fault: its name, how many, of how many."""
    for split, accounts in ledger.items():
        for what, kinds in (("pictures", ("picture",)), ("entries", ITEMS)):
            found = [accounts[kind] for kind in kinds if kind in accounts]
            lost = sum(sum(lost_by_fault(account).values()) for account in found)
            if lost:
                yield f"{what} of split {split or 'unknown'}", lost, sum(account["read"] for account in found)


def _listed(rows: pa.Table) -> str:
    """The first rows, by key, kind and reason."""
    first = rows.slice(0, _LISTED).to_pylist()
    told = [
        f"{row['kind']} {row['id']} of {row['key'] or 'no picture'} ({row['cause']}): {row['reason']}" for row in first
    ]
    more = f"; and {len(rows) - _LISTED} more in quarantine.parquet" if len(rows) > _LISTED else ""
    return "; ".join(told) + more
