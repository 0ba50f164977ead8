"""Answers in the file that VQA's evaluation server takes.

Its schema, and what the official tools check when they load it (VQA.loadRes of github.com/GT-Vision-Lab/VQA): a JSON
array of {"question_id": int, "answer": str}, one for each question of the split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laconvnet.files import publish_json
from laconvnet.pipeline.data.examples import Examples
from laconvnet.pipeline.errors import ConfigError


def check(examples: Examples, annotated: int | None) -> None:
    """Raises ConfigError for a split whose answers the server would refuse as a whole.

    That is one whose questions are not known by VQAv2's numbers, are there twice, or lack some of the ``annotated``.
    """
    ids = examples.ids(examples.rows) if examples.kind == "question" else []
    strange = next((id for id in ids if not (id.isascii() and id.isdigit())), None)
    if not ids or strange is not None:
        told = f"question id {strange!r}" if ids else f"{examples.split} holds no question"
        raise ConfigError(f"--submission: {told}; expected a split of VQAv2, whose questions have numbers")
    if len(set(ids)) < len(ids):
        raise ConfigError(f"--submission: {len(ids) - len(set(ids))} questions are there twice; expected each once")
    if annotated is not None and annotated != len(ids):
        raise ConfigError(
            f"--submission: {len(ids)} of {annotated} questions are there, and the server takes all or nothing; build "
            "the set again with the pictures that were lost"
        )


def write(answers: Sequence[dict[str, Any]], out: Path) -> None:
    """Write the answers of `eval` to a split that was checked."""
    publish_json(out, [{"question_id": int(each["question_id"]), "answer": each["answer"]} for each in answers])
