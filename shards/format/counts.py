"""What a set counts of its texts when it is built, so that a training need not read them all for its vocabulary.

The table has these rows for each split and kind; ``what`` says which:

* `EXAMPLE`: how many examples there are.
* `TOKEN`: how often each token occurs in their texts. A token is what stands between two blanks (U+0020), as it is
  written: which words it holds, and which its mirrored text, is for the reader to say.
* `ANSWER`: how many questions have each answer, as it is written.
* `WORDLESS`: a text without any letter or digit, one row each, with its row in the examples' table.

Rows are sorted, so that equal examples have equal counts to the byte, whoever counted which of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

EXAMPLE, TOKEN, ANSWER, WORDLESS = "example", "token", "answer", "wordless"
COUNT_SCHEMA = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("what", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
COUNTED_COLUMNS = ["split", "kind", "text", "answer"]  # of the examples
# A set whose texts know no blanks has nearly as many tokens as texts: then counts are worth less than they cost.
LIMIT_BYTES = 2**30
_ROW_BYTES = 64  # beside the value, about
_TOGETHER = 2**20  # rows that are added up at once, at least
_LETTER_OR_DIGIT = r"[\p{L}\p{N}]"
_KEYS = COUNT_SCHEMA.names[:-1]


def split_tokens(texts: pa.Array) -> pa.ListArray:
    """The tokens of each of these texts (N,): lists (N,) of strings."""
    return pc.split_pattern(texts, " ")


def counted(examples: Iterable[pa.RecordBatch], first: int = 0) -> Iterator[pa.Table]:
    """The counts of these batches of examples, the first of which begins at row ``first`` of its table."""
    for batch in examples:
        for split, kind in product(batch["split"].unique().to_pylist(), batch["kind"].unique().to_pylist()):
            wanted = pc.and_(pc.equal(batch["split"], split), pc.equal(batch["kind"], kind))
            rows = pc.indices_nonzero(wanted)
            if len(rows):
                yield from _counted(split, kind, batch["text"].take(rows), batch["answer"].take(rows), rows, first)
        first += len(batch)


def _counted(
    split: str, kind: str, texts: pa.Array, answers: pa.Array, rows: pa.Array, first: int
) -> Iterator[pa.Table]:
    """Of the examples at these ``rows`` (N,) behind ``first``, which are all of one split and kind."""
    yield _table(split, kind, EXAMPLE, pa.array([""]), pa.array([len(rows)]))
    for what, values in ((TOKEN, pc.list_flatten(split_tokens(texts))), (ANSWER, pc.drop_null(answers))):
        found = pc.value_counts(values)
        yield _table(split, kind, what, found.field("values"), found.field("counts"))
    wordless = pc.indices_nonzero(pc.invert(pc.match_substring_regex(texts, _LETTER_OR_DIGIT)))
    ones = pa.array(np.ones(len(wordless), np.int64))
    places = pc.add(rows.take(wordless).cast(pa.int64()), first)
    yield _table(split, kind, WORDLESS, texts.take(wordless), ones, places)


def _table(
    split: str, kind: str, what: str, values: pa.Array, counts: pa.Array, rows: pa.Array | None = None
) -> pa.Table:
    same = pa.array(np.zeros(len(values), np.int64))
    names = [pa.array([name]).take(same) for name in (split, kind, what)]
    places = pa.nulls(len(values), pa.int64()) if rows is None else rows
    return pa.Table.from_arrays([*names, values, places, counts], schema=COUNT_SCHEMA)


def summed(counts: Iterable[pa.Table]) -> pa.Table | None:
    """The sum of counts, sorted; None where it would be larger than `LIMIT_BYTES`, whatever the parts are.

    Holds, for a moment, some three times what it returns.
    """
    total, waiting, rows = COUNT_SCHEMA.empty_table(), list[pa.Table](), 0
    for part in counts:
        waiting.append(part)
        rows += len(part)
        if rows > max(_TOGETHER, len(total)):
            total, waiting, rows = _added([total, *waiting]), [], 0
            if _size(total) > LIMIT_BYTES:
                return None
    total = _added([total, *waiting])
    return None if _size(total) > LIMIT_BYTES else total.sort_by([(name, "ascending") for name in _KEYS])


def _added(parts: list[pa.Table]) -> pa.Table:
    found = pa.concat_tables(parts).group_by(_KEYS).aggregate([("count", "sum")])
    columns = [found[name] for name in _KEYS] + [found["count_sum"]]
    return pa.Table.from_arrays(columns, schema=COUNT_SCHEMA)


def _size(counts: pa.Table) -> int:
    return _ROW_BYTES * len(counts) + (pc.sum(pc.binary_length(counts["value"])).as_py() or 0)
