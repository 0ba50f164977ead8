"""What every command has: an example that parses, and --json."""

from __future__ import annotations

import argparse
import re
import shlex

import generate
import pytest

from laconvnet.launch import cli

LEAVES = [leaf for leaf, _ in generate._leaves(cli.parser())]


def examples(text: str) -> list[str]:
    """The commands among the indented lines of a help, those that go on in the next line joined."""
    joined = re.sub(r"\n {3,}", " ", text)
    return re.findall(r"^ +(laconvnet [^\n]+)", joined, re.MULTILINE)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.prog)
def test_every_command_has_an_example_that_parses(leaf: argparse.ArgumentParser) -> None:
    name = generate._name(leaf)
    own = [line for line in examples(f"{leaf.description}\n{leaf.epilog}") if line.startswith(name)]
    assert own
    for line in own:
        arguments, rest = cli.parser().parse_known_args(shlex.split(line.partition(" > ")[0], comments=True)[1:])
        assert not rest or arguments.takes_keys


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.prog)
def test_every_command_can_speak_to_programs(leaf: argparse.ArgumentParser) -> None:
    assert any("--json" in action.option_strings for action in leaf._actions)
