"""`laconvnet bench scale`: what it accepts, what it prints, how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from laconvnet.launch import cli
from laconvnet.pipeline.bench import scale


def run(*words: str) -> int:
    return cli.main(["bench", "scale", *words])


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["--ranks", "0"], "--ranks: 0: expected at least 1"),
        (["--shard-bytes", "0"], "--shard-bytes: 0: expected at least 1"),
        (["--window", "nan"], "--window: nan: expected at least 1"),
        (["--rate", "0"], "--rate: 0: expected GB a second, more than 0"),
        (
            ["--samples", "1e6"],
            "--samples: 1e+06: expected at least 16,384,000, which 512 ranks pass over in 2,000 steps",
        ),
        (["--samples", "nan"], "--samples: nan: expected at least"),
        (["--samples", "1e13"], "and at most 1e12"),
    ],
)
def test_mistakes(words: list[str], output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert output in line


@pytest.mark.parametrize(("wrong", "code"), [(0, 0), (3, 1)])
def test_rows_and_code(
    wrong: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    same = {"device": "a CPU", "cores": 2, "load": 0.1, "versions": {}, "samples": 10**8, "shards": 9, "share": 4}
    exact = {"bench": "exact", **same, "window": 50, "name": "whole epoch", "measure": "shown twice", "median": wrong}

    def rows(what: Any, rounds: int) -> Iterator[list[dict[str, Any]]]:
        asked.append((what, rounds))
        yield [exact]
        yield [{**exact, "bench": "reads", "measure": "shards", "median": 7}]

    monkeypatch.setattr(scale, "rows", rows)
    words = ["--samples", "1e8", "--ranks", "64", "--share", "4", "--window", "50", "--rate", "2", "--rounds", "3"]
    assert run(*words, "--json") == code
    assert asked == [(scale.Scale(10**8, 64, 4, 50, 256 * 2**20, 2.0), 3)]
    assert [json.loads(line)["median"] for line in capsys.readouterr().out.splitlines()] == [wrong, 7]
    assert run(*words) == code
    output = capsys.readouterr().out.splitlines()
    assert output[0].startswith("exact, device a CPU, cores 2,")
    assert output[1].split() == ["name", "measure", "median"]
    assert output[2].split() == ["whole", "epoch", "shown", "twice", str(wrong)]
