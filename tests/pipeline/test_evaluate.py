"""What evaluation sets beside a score: the words of others, the commonest answer; and files that appear whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.inference import evaluate
from laconvnet.shards.format.manifest import EXAMPLE_SCHEMA, SAMPLE_SCHEMA, Manifest
from tests.mapped import as_mapped


def questions(pairs: list[tuple[str | None, str | None]]) -> Examples:
    """Questions of (family, answer), without any image."""
    blank = {field.name: None for field in EXAMPLE_SCHEMA}
    rows = [{**blank, "family": family, "answer": answer} for family, answer in pairs]
    table = pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in EXAMPLE_SCHEMA]))
    manifest = Manifest(Path("nowhere"), {}, as_mapped(SAMPLE_SCHEMA.empty_table()), as_mapped(table), [])
    return Examples(manifest, "question", "any", np.arange(len(pairs)))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 17, 64, 500])
def test_everybody_gets_the_words_of_another(count: int) -> None:
    rows = np.sort(np.random.default_rng(count).choice(10_000, count, replace=False))
    others = evaluate._others(rows)
    assert sorted(others.tolist()) == rows.tolist()
    assert (others != rows).all()
    assert np.array_equal(others, evaluate._others(rows))
    if count > 50:  # not simply the next one, which is often a sentence of the same referent
        assert (np.roll(rows, 1) != others).mean() > 0.9
        assert (np.roll(rows, -1) != others).mean() > 0.9


def test_the_commonest_answer_of_all_and_of_each_family() -> None:
    training = questions(
        [
            *[("exist", "yes"), ("exist", "yes"), ("exist", "no"), ("count", "2"), ("count", "2"), ("count", "yes")],
            *[("query", "red"), ("query", None), ("query", None), (None, "yes")],
        ]
    )
    evaluated = questions(
        [
            *[("exist", "yes"), ("exist", "no"), ("count", "2"), ("count", "3"), ("query", "red"), ("query", "blue")],
            *[("unseen", "yes"), (None, "yes"), ("query", None)],
        ]
    )
    found = evaluate._majority(evaluated, training)
    # Over all it is "yes" (three of eight); by family yes, 2, red; a family that training lacks has none.
    assert found == {"accuracy": pytest.approx(3 / 8), "accuracy_by_family": pytest.approx(4 / 8)}


def test_hidden_answers_have_no_majority() -> None:
    hidden, known = questions([("exist", None)]), questions([("exist", "yes")])
    assert evaluate._majority(hidden, known) == {}
    assert evaluate._majority(known, hidden) == {}
