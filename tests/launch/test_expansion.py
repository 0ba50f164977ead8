"""`values` and `each` of a stages file: what they stand for, and what is told where they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconvnet.launch.graph.stages import Graph, read
from laconvnet.pipeline.errors import ConfigError

FILE = """
folder: "{raw}-runs"
values:
  raw: data
  refer: "{raw}/refer"
  ranks: 2
stages:
  "shards-{set}":
    each:
      - {set: [refcoco, refcoco+], root: "{refer}"}
      - {set: clevr, root: "{raw}/clevr"}
    run: [build, "{set}", --root, "{root}", --out, "{here}/{set}"]
    title: "{set} from {root}"
  "train-{set}-{size}":
    each: {set: [refcoco, clevr], size: [s, b]}
    run: [train, --size, "{size}", --data, "{shards-{set}}/{set}", '{"unknown": 1}', "{}"]
    processes: "{ranks}"
  report:
    run: [report]
    needs: ["train-*"]
"""


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stages.yaml").write_text(FILE)
    return read("stages.yaml")


def test_a_stage_stands_for_every_combination(graph: Graph, tmp_path: Path) -> None:
    assert list(graph.by_name) == [
        *("shards-refcoco", "shards-refcoco+", "shards-clevr"),
        *("train-refcoco-s", "train-refcoco-b", "train-clevr-s", "train-clevr-b"),
        "report",
    ]
    plus = graph.stage("shards-refcoco+")
    assert plus.argv == ("build", "refcoco+", "--root", "data/refer", "--out", f"{plus.folder}/refcoco+")
    assert plus.title == "refcoco+ from data/refer"
    clevr = graph.stage("shards-clevr")
    train = graph.stage("train-clevr-b")
    assert train.argv[2:] == ("b", "--data", f"{clevr.folder}/clevr", '{"unknown": 1}', "{}")
    assert (train.needs, train.processes) == (("shards-clevr",), 2)
    assert graph.stage("report").needs == tuple(name for name in graph.by_name if name.startswith("train-"))
    assert graph.folder == tmp_path / "data-runs"


def test_what_is_given_wins_and_reaches_the_values_made_of_it(graph: Graph) -> None:
    other = read("stages.yaml", given={"raw": "/mnt/d", "ranks": "8"})
    assert other.stage("shards-refcoco").argv[3] == "/mnt/d/refer"
    assert other.stage("train-refcoco-s").processes == 8
    assert str(other.folder) == "/mnt/d-runs"
    alone = read("stages.yaml", given={"ranks": "4"})  # asks for more machines, computes the same
    assert [stage.fingerprint for stage in alone.stages] == [stage.fingerprint for stage in graph.stages]
    assert other.stage("shards-clevr").fingerprint != graph.stage("shards-clevr").fingerprint
    own = read("stages.yaml", given={"refer": "elsewhere"})
    assert own.stage("shards-refcoco").argv[3] == "elsewhere"
    assert own.stage("shards-clevr").fingerprint == graph.stage("shards-clevr").fingerprint


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("values: [a]\nstages: {a: {run: [x]}}", ["values: got a list", "a mapping"]),
        ("values: {task: x}\nstages: {a: {run: [x]}}", ["values: task", "other than here and task"]),
        ("values: {raw: [x], b: y}\nstages: {a: {run: ['{raw}', '{b}'], title: [c]}}", ["title: got a list", "a text"]),
        ("values: {raw: [x]}\nstages: {a: {run: [x]}}", ["values: raw: got a list", "a text"]),
        ("values: {a: x}\nstages: {a: {run: [x]}}", ["'a': values has a key of that name"]),
        ("stages: {'a-{x}': {each: [], run: [x]}}", ["each: got a list", "a mapping of names"]),
        ("stages: {'a-{x}': {each: {x: []}, run: [x]}, b: {run: [x]}}", ["each: x: got a list", "list of texts"]),
        ("stages: {'a-{x}': {each: 3, run: [x]}, b: {run: [x]}}", ["'a-{x}': each: got '3'", "mapping of names"]),
        (
            "stages: {'a-{x}': {each: {x: [[y]]}, run: [x]}, b: {run: [x]}}",
            ["each: x: item 1: got a list ['y']", "list of texts"],
        ),
        ("stages: {'a-{here}': {each: {here: [y]}, run: [x]}, b: {run: [x]}}", ["each: here", "nothing else has"]),
        ("values: {x: 1}\nstages: {'{x}a': {each: {x: [y]}, run: [x]}, b: {run: [x]}}", ["each: x", "nothing else"]),
        ("stages: {a: {each: {x: [1, 2]}, run: ['{x}']}}", ["two stages are called 'a'", "every key of each"]),
        ("stages: {'a-{x}': {each: {y: [1]}, run: [x]}}", ["'a-{x}': expected a name of letters"]),
        ("stages: {a: {run: [x], needs: ['b-*']}}", ["'b-*' is no stage; expected one of a"]),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, parts: list[str]) -> None:
    file = tmp_path / "stages.yaml"
    file.write_text(f"folder: x\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        read(file)
    line = next(line for line in str(caught.value).splitlines() if parts[0] in line)
    assert line.startswith(f"{file}: line ")
    assert all(part in line for part in parts)


def test_a_value_that_the_file_does_not_have(graph: Graph) -> None:
    with pytest.raises(ConfigError, match=r"--set rwa: .* expected one of raw, refer, ranks"):
        read("stages.yaml", given={"rwa": "/data"})
