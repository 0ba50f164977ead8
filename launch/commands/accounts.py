"""What the commands print of a set's numbers: counts, ledger, published counts, and the shares of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from laconvnet.launch.commands.output import rows, show
from laconvnet.terminal import say


def counted_with_epoch(folder: Path, batch: int | None = None) -> dict[str, Any]:
    """The numbers of a set (`shards.sets.info`), and of one with parts, or with a batch, what an epoch is made of."""
    from laconvnet.shards.sets import info as counting

    counted = counting.info(folder)
    if "ledgers" in counted or batch is not None:
        from laconvnet.pipeline.data.epoch import epoch

        counted["epoch"] = [asdict(part) for part in epoch(folder, batch=batch)]
    return counted


def show_counts(counted: dict[str, Any], json: bool) -> None:
    """What a set holds, by split, its ledger, its epochs and how it differs from what is published."""
    if json:
        show(counted, json)
        return
    by_split = counted.pop("by_split")
    epoch = _epoch_rows(counted.pop("epoch", []))
    different = counted.pop("published", [])
    ledgers = {"": counted.pop("ledger")} if "ledger" in counted else counted.pop("ledgers", {})
    show(counted, json)
    accounts = [row for name, ledger in ledgers.items() for row in account_rows(name, ledger)]
    for table in ([{"split": split, **counts} for split, counts in by_split.items()], epoch, accounts):
        if table:
            say()
            rows(table, False)
    if different:
        say()
        show_published(different)


def show_published(different: Sequence[dict[str, Any]]) -> None:
    """A line for each split of which other numbers were read than are published (`shards.sources.published`).

    One line for all where less than half was read of each of several: of an excerpt no number tells anything.
    """
    by_split = [[*found] for _, found in groupby(different, key=lambda one: one["split"])]
    if len(by_split) > 1 and all(2 * one["read"] < one["published"] for one in different):
        first, *others = by_split
        others_too = ", ".join(found[0]["split"] for found in others)
        say(f"{_published(first[:1])}, and less than half of {others_too}: an excerpt? --json has all numbers")
        return
    for found in by_split:
        say(f"{_published(found)}; source: {found[0]['citation']}")


def _published(found: Sequence[dict[str, Any]]) -> str:
    """What is published and was read of one split."""
    counts = ", ".join(f"{one['published']:,} {one['kind']}s (here {one['read']:,} were read)" for one in found)
    return f"published: {found[0]['split']} {counts}"


def _epoch_rows(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `pipeline.data.epoch`, without the columns that say nothing here."""
    with_names, with_steps = any(part["names"] for part in parts), any(part["steps"] for part in parts)
    return [
        {
            "an epoch of": f"{part['kind']}s",
            "part": part["part"],
            "examples": part["examples"],
            "items": part["items"],
            **({"names of objects": part["names"]} if with_names else {}),
            "weight": f"{part['weight']:g}",
            "shown": part["of_epoch"],
            "share": f"{100 * part['share']:.1f} %",
            **({"steps": round(part["steps"], 1)} if with_steps else {}),
        }
        for part in parts
    ]


def account_rows(name: str, ledger: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a ledger; with its set's name where there are several."""
    from laconvnet.shards.format.ledger import KINDS

    for split, accounts in ledger.items():
        for kind in (kind for kind in KINDS if kind in accounts):
            account = accounts[kind]
            row = {"ledger": f"{name} {split or 'unknown split'}".strip(), "entries": kind}
            row |= {"read": account["read"], "kept": account["kept"], "lost": sum(account["lost"].values())}
            causes = [f"{cause} {number}" for cause, number in account["lost"].items()]
            causes += [f"{cause} {number} (kept)" for cause, number in account["changed"].items()]
            yield row | {"causes": ", ".join(causes)}
