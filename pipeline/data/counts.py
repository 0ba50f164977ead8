"""How often each token and answer occurs in the examples of a training: as the set was counted, or by reading all.

A set is counted when it is built (`laconvnet.shards.format.counts`), split by split. Of examples that are not the whole
split, and of a set without counts, the texts are read. Both ways give the same numbers.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from laconvnet.pipeline.data.examples import Examples, kinds_and_splits
from laconvnet.pipeline.data.text import count_tokens, count_values
from laconvnet.shards.format.manifest import ANSWER, EXAMPLE, TOKEN


def token_counts(examples: Examples) -> Counter[str]:
    """How often each token, as `count_tokens` parts texts, occurs in the texts of these examples.

    Of those without a word, which are no examples, it may count the tokens, too: they hold no word either.
    """
    stored = _stored(examples, TOKEN)
    if stored is not None:
        return _by_value(stored)
    return count_tokens(piece for _, piece in examples.manifest.example_columns.pieces("text", examples.rows))


def held_out_tokens(examples: Examples) -> Counter[str]:
    """As `token_counts`, of the other splits of the set: of what no training on these examples is shown."""
    manifest, kind = examples.manifest, examples.kind
    splits = sorted({split for known, split in kinds_and_splits(manifest) if known == kind} - {examples.split})
    found: Counter[str] = Counter()
    for split in splits:
        found += token_counts(Examples(manifest, kind, split, manifest.select(split, kind)))
    return found


def answer_counts(examples: Examples) -> Counter[str]:
    """How many of these questions have each answer, as it is written; those whose answer is hidden have none."""
    columns = examples.manifest.example_columns
    stored = _stored(examples, ANSWER)
    if stored is not None:
        without_words = columns.values("answer", examples.empty_rows)
        return +(_by_value(stored) - Counter(answer for answer in without_words if answer is not None))
    found: Counter[str] = Counter()
    for _, piece in columns.pieces("answer", examples.rows):
        found.update(count_values(piece))
    return found


def _stored(examples: Examples, what: str) -> pa.Table | None:
    """What the set has counted of these examples, None where it has not, or has counted others beside them.

    They are different rows of one split and kind: if there are as many as the set has counted, they are all of them.
    """
    manifest, split, kind = examples.manifest, examples.split, examples.kind
    number = manifest.counts(split, kind, EXAMPLE)
    if number is None or number["count"].to_pylist() != [len(examples.rows) + len(examples.empty_rows)]:
        return None
    return manifest.counts(split, kind, what)


def _by_value(stored: pa.Table) -> Counter[str]:
    return Counter(dict(zip(stored["value"].to_pylist(), stored["count"].to_pylist(), strict=True)))
