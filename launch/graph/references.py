"""`{name}` in the texts of a stages file: a value, a name of `each`, or the folder of a stage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REFERENCE = re.compile(r"\{([A-Za-z0-9_][A-Za-z0-9_.+-]*)\}")
RESERVED = ("here", "task")


def filled(text: str, known: Mapping[str, str]) -> str:
    """The text with the names that are known put in; other braces stay."""
    return REFERENCE.sub(lambda match: known.get(match[1], match[0]), text)


def filled_in(value: Any, known: Mapping[str, str]) -> Any:
    """The same in every text of a tree of mappings and lists."""
    if isinstance(value, str):
        return filled(value, known)
    if isinstance(value, list):
        return [filled_in(part, known) for part in value]
    if isinstance(value, dict):
        return {key: filled_in(part, known) for key, part in value.items()}
    return value
