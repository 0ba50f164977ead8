"""What an epoch of a set is made of: the items of each part, and what the weights do to them, as a training has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.compute as pc

from laconvnet.pipeline.data.examples import Examples, Items, Kind
from laconvnet.pipeline.data.plan import steps
from laconvnet.pipeline.errors import ConfigError
from laconvnet.shards.format.manifest import Manifest

# The ids that the source of Visual Genome gives to what it says of an object: its name, perhaps with attributes.
_NAME = r"^(object|attribute)-\d+-\d+$"


@dataclass(frozen=True)
class Part:
    """One part of a set in an epoch of expressions or of questions.

    ``examples`` have a word in them, of questions also an answer; they make ``items``, one a referent or question, of
    which ``names`` are names of Visual Genome's objects. ``of_epoch`` are the items that an epoch shows, ``share`` is
    theirs of all parts'. ``steps`` are of the whole epoch, shared out by ``share``; None without a batch.
    """

    kind: str
    part: str
    examples: int
    items: int
    names: int
    weight: float
    of_epoch: int
    share: float
    steps: float | None


def epoch(folder: Path, split: str = "train", batch: int | None = None) -> list[Part]:
    """The parts of a set in an epoch of each kind that can be trained on; ``batch`` is the examples of a step.

    Raises InputError as `Manifest.open`.
    """
    manifest = Manifest.open(folder)
    found: list[Part] = []
    for kind in get_args(Kind):
        if len(manifest.select(split, kind)):
            with suppress(ConfigError):  # hidden answers, or texts without a word: no training has an epoch of them
                found += _parts(folder, kind, split, batch)
    return found


def _parts(folder: Path, kind: Kind, split: str, batch: int | None) -> Iterator[Part]:
    examples = Examples.open(folder, kind, split)
    if kind == "question":
        examples = examples.answered()
    items = Items.of(examples, seed=0)
    plan = items.plan
    sets = examples.manifest.sample_columns.numbers("set", examples.samples(items.first))
    examples_of = np.bincount(sets, items.count, len(plan.sizes)).astype(int).tolist()
    names_of = np.bincount(sets, _is_name(items), len(plan.sizes)).astype(int).tolist()
    total = None if batch is None else steps(plan, batch, 1)
    for number, described in enumerate(examples.manifest.meta["sets"]):
        if not plan.sizes[number]:
            continue
        share = plan.shares[number] / plan.epoch_length
        yield Part(
            kind,
            str(described["name"]),
            examples_of[number],
            plan.sizes[number],
            names_of[number],
            plan.weights[number],
            plan.shares[number],
            share,
            None if total is None else share * total,
        )


def _is_name(items: Items) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each of these items (N,) is the name of an object of Visual Genome."""
    flags = np.zeros(len(items.first), bool)
    for where, ids in items.examples.manifest.example_columns.pieces("item_id", items.first):
        flags[where] = pc.match_substring_regex(ids, _NAME).to_numpy(zero_copy_only=False)
    return flags
