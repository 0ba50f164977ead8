"""Every number under `configs/` says where it comes from, so that none of ours passes for the papers'.

The rule: a number has a comment on its line, right above it, or on the line of a group that it stands in, and the
comment names a source or says "our choice". A file of ours alone says once, at its top, "every number here is our
choice". What a file takes from its `base` is told there. Sources are v1 and v2 (the papers, with table or section),
"released" (luogen1996/LaConvNet, its key), and MCN, SimREC and MCAN, whose parts the papers borrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*/*.yaml"))
OURS = "every number here is our choice"
SOURCE = re.compile(r"\b(v[12] (Sec|Tab)\. |released: |MCN|SimREC|MCAN|our choice)", re.IGNORECASE)
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def unsourced(text: str) -> list[str]:
    """The lines with a number that no comment speaks for."""
    lines = text.splitlines()
    if OURS in " ".join(line.lstrip("# ") for line in header(lines)).lower():
        return []
    return [
        lines[number]
        for number, groups in numbers(yaml.compose(text), ())
        if not any(SOURCE.search(comment) for comment in comments(lines, number, groups))
    ]


def header(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def numbers(node: yaml.Node | None, groups: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The line of each number, from 0, and those of the keys above it."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from numbers(value, (*groups, key.start_mark.line))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from numbers(value, groups)
    elif isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS:
        yield node.start_mark.line, groups


def comments(lines: list[str], number: int, groups: tuple[int, ...]) -> Iterator[str]:
    for line in {number, *groups}:
        yield lines[line].partition(" #")[2]
    above = number - 1
    while above >= 0 and lines[above].lstrip().startswith("#"):
        yield lines[above]
        above -= 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_number_has_its_source(file: Path) -> None:
    assert unsourced(file.read_text()) == []


def test_a_number_without_one_is_found() -> None:
    told = "# v2 Sec. 5.2: 224 pixels.\ndata:\n  size: 224{}\n"
    assert unsourced(told.format("")) == ["  size: 224"], "the head of a file speaks for no number"
    assert unsourced(told.format("  # as it is")) == ["  size: 224  # as it is"]
    assert unsourced(told.format("  # v2 Sec. 5.2")) == []
    assert unsourced("data:  # released: INPUT_SHAPE\n  sizes: [1, 2]\n") == []
    assert unsourced("data:\n  # MCAN\n  size: 1\n  words: 2\n") == ["  words: 2"]
    assert unsourced("# All of it. Every number here is\n# our choice.\na: 1\n") == []
