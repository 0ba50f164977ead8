"""A command is one function: what its signature and docstring become."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from laconvnet.launch import cli, commandline
from laconvnet.launch.commandline import Arg

seen: dict[str, Any] = {}


def try_out(
    keys: Sequence[str],
    place: Annotated[Path, Arg("where", "PLACE")],
    more: Annotated[str | None, Arg("what else", "MORE")] = None,
    *,
    count: Annotated[int, Arg("how many", "N")] = 3,
    share: Annotated[float | None, Arg("how much (default: all)", "X")] = None,
    dry_run: Annotated[bool, Arg("do nothing")] = False,
    from_: Annotated[str, Arg("whence", "F")],
    names: Annotated[Sequence[str], Arg("several behind one", "S")] = (),
    given: Annotated[Sequence[int], Arg("again for each", "I", flag="--set", append=True)] = (),
    kind: Annotated[Literal["a", "b"] | None, Arg("which")] = None,
    left: Annotated[bool, Arg("one", group="side")] = False,
    right: Annotated[bool, Arg("or the other", group="side")] = False,
) -> int:
    """Try things out.

    Described in
    one paragraph.

    Then an example:
      try this   --now
    """
    seen.clear()
    seen.update(locals())
    return 7


@pytest.fixture
def line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="x", allow_abbrev=False)
    commandline.add(parser.add_subparsers(required=True), try_out, epilog="typed as {prog}")
    return parser


def called(line: argparse.ArgumentParser, *words: str) -> dict[str, Any]:
    arguments, rest = line.parse_known_args(["try-out", *words])
    arguments.keys = rest
    assert arguments.command(arguments) == 7
    assert arguments.takes_keys
    return dict(seen)


def test_what_is_left_out_is_the_signatures_default(line: argparse.ArgumentParser) -> None:
    found = called(line, "here", "--from", "z")
    assert found == {
        **{"keys": [], "place": Path("here"), "more": None, "count": 3, "share": None, "dry_run": False, "from_": "z"},
        **{"names": (), "given": [], "kind": None, "left": False, "right": False},
    }


def test_what_is_typed_has_the_signatures_type(line: argparse.ArgumentParser) -> None:
    words = (
        "here there --count 5 --share 0.5 --dry-run --from z --names a b --set 1 --set 2 --kind b --left --key.sub 1"
    )
    found = called(line, *words.split())
    assert (found["place"], found["more"], found["count"], found["share"]) == (Path("here"), "there", 5, 0.5)
    assert (found["names"], found["given"], found["kind"]) == (["a", "b"], [1, 2], "b")
    assert found["dry_run"]
    assert found["left"]
    assert found["keys"] == ["--key.sub", "1"]
    assert called(line, "here", "--from", "z", "--set", "4")["given"] == [4], "a default is not added to"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["here"], "--from"),
        (["--from", "z"], "PLACE"),
        (["here", "--from", "z", "--count", "x"], "--count"),
        (["here", "--from", "z", "--kind", "c"], "'a', 'b'"),
        (["here", "--from", "z", "--left", "--right"], "--left"),
    ],
)
def test_what_does_not_fit_is_named(
    line: argparse.ArgumentParser, words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        line.parse_known_args(["try-out", *words])
    assert ended.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_the_help_says_all_of_it(line: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        line.parse_args(["--help"])
    assert "try things out\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        line.parse_args(["try-out", "--help"])
    output = capsys.readouterr().out
    assert "Described in one paragraph.\n" in output
    assert output.index("--count N") < output.index("  try this   --now\n") < output.index("typed as x try-out")
    assert "how many (default: 3)" in output
    assert output.count("(default: ") == 2, "where the help tells it, and what is None, false or empty, has none added"
    for name in ("PLACE", "MORE", "--dry-run", "--set I", "--names S [S ...]", "{a,b}"):
        assert name in output


def test_an_option_is_never_guessed_from_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["shards", "build", "refcoco", "--roo", "x", "--out", "y"])
    assert ended.value.code == 2
    assert "--root" in capsys.readouterr().err
