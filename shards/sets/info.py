"""The contents of a set, in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from laconvnet.shards.format.facts import GENERATED, says_generated
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.pictures import NOT_STORED
from laconvnet.shards.sets.holdout import Identity, known_images
from laconvnet.shards.sources.published import differences

# Images of the parts of a set that was put together: held out, without anything to train on, and doubtful.
LEFT_OUT = ("excluded", "without_examples", "doubtful")


def info(folder: Path) -> dict[str, Any]:
    """Counts of a set, in all and by split, with its source, licence and the weights of its sets.

    ``samples`` are rows, ``pictures`` distinct images (sets that were put together may share some), ``bytes``
    those of the shards; ``excluded``, ``without_examples`` and ``doubtful`` are images of the parts that were held
    out, had nothing to train on, or are kept though they look like one that is held out. A sample with regions in two
    splits counts in both. Raises InputError as `Manifest.open`, and
    where a table is damaged in whatever column. ``ledger`` is that of a built set (`shards.format.ledger`), ``ledgers``
    those of the parts of one that was put together, by name; sets of before have none. ``published`` lists where other
    numbers were read than are published (`shards.sources.published`), where any are known of this source.
    ``generated`` is there, and true, where the images were generated, or some of those of the parts.
    """
    manifest = Manifest.open(folder)
    manifest.check_tables()
    image = _image_numbers(manifest)
    sample_splits = manifest.samples["splits"].to_pylist()
    example_splits = np.array(manifest.examples["split"].to_pylist(), dtype=object)
    is_question = np.array(manifest.examples["kind"].to_pylist(), dtype=object) == "question"

    def counts(samples: list[int], examples: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, int]:
        questions = int((examples & is_question).sum())
        return {
            "samples": len(samples),
            "pictures": len({image[row] for row in samples}),
            "examples": int(examples.sum()),
            "expressions": int(examples.sum()) - questions,
            "questions": questions,
        }

    other = differences(manifest.meta)
    rows_of: dict[str, list[int]] = {}
    for row, splits in enumerate(sample_splits):
        for split in splits:
            rows_of.setdefault(split, []).append(row)
    return {
        "source": manifest.meta["source"],
        **({GENERATED: True} if says_generated(manifest.meta) else {}),
        "licence": manifest.meta["licence"],
        **counts(list(range(len(sample_splits))), np.ones(len(is_question), dtype=bool)),
        "bytes": sum(manifest.shard(number).size() for number in range(len(manifest.shard_paths))),
        "shards": len(manifest.shard_paths),
        "quarantined": manifest.meta["quarantined"],
        **{name: manifest.meta[name] for name in LEFT_OUT if name in manifest.meta},
        "by_split": {split: counts(rows_of[split], example_splits == split) for split in sorted(rows_of)},
        "weights": {entry["name"]: entry["weight"] for entry in manifest.meta["sets"]},
        **{name: manifest.meta[name] for name in ("ledger", "ledgers") if name in manifest.meta},
        **({} if other is None else {"published": other}),
    }


def _image_numbers(manifest: Manifest) -> list[int]:
    """A number for each row; rows have the same where a chain of identities in common leads from one to the other."""
    first_with: dict[Identity, int] = {}
    parents = list(range(len(manifest.samples)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = row = parents[parents[row]]
        return row

    for image in known_images(manifest):
        for identity in image.identities if image.row != NOT_STORED else ():
            parents[root(image.row)] = root(first_with.setdefault(identity, image.row))
    return [root(row) for row in range(len(parents))]
