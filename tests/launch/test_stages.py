from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laconvnet.launch.graph import fingerprint
from laconvnet.launch.graph.stages import cores, plan, read
from laconvnet.pipeline.errors import ConfigError

Write = Callable[[str], Path]

CHAIN = """
last:
  run: [eval, "{left}", "{right}/x", --out, "{here}"]
left:
  run: [train, --config, left.yaml, --data, "{raw}/shards"]
right:
  run: [train, --lr, 1e-4, --data, "{raw}/shards"]
  processes: 2
  threads: 3
  minutes: 1.5
  nodes: 2
  gpus: 4
  partition: long
  title: On the right
raw:
  run: [generate, --pictures, 8000, --flag, no, --octal, 010, --out, "{here}/raw"]
alone:
  run: [alone]
"""
RIGHT_KEYS = ("run", "processes", "threads", "minutes", "nodes", "gpus", "partition", "title")


def fingerprints(file: Path) -> dict[str, str]:
    return {stage.name: stage.fingerprint for stage in plan(file)}


@pytest.fixture
def chain(stages: Write, work: Path) -> Path:
    (work / "left.yaml").write_text("model: {preset: tiny, depth: 4}\nlr: 0.1\n")
    return stages(CHAIN)


def test_order_folders_and_arguments(chain: Path, work: Path) -> None:
    found = {stage.name: stage for stage in plan(chain)}
    assert list(found) == ["raw", "left", "right", "last", "alone"]
    raw, right, last = found["raw"], found["right"], found["last"]
    assert raw.folder == work / "runs" / f"raw-{raw.fingerprint}"
    # Scalars arrive as they were written, not as YAML 1.1 reads them.
    assert raw.argv == (
        "generate",
        "--pictures",
        "8000",
        "--flag",
        "no",
        "--octal",
        "010",
        "--out",
        f"{raw.folder}/raw",
    )
    assert right.argv == ("train", "--lr", "1e-4", "--data", f"{raw.folder}/shards")
    assert (right.processes, right.threads, right.minutes, right.title) == (2, 3, 1.5, "On the right")
    assert (raw.processes, raw.threads, raw.minutes) == (1, cores(), 1440)
    assert (right.nodes, right.gpus, right.partition) == (2, 4, "long")
    assert (raw.nodes, raw.gpus, raw.partition) == (None, 0, None)
    assert (right.given, raw.given) == (frozenset(RIGHT_KEYS), frozenset({"run"}))
    assert last.needs == ("left", "right")
    assert last.argv == ("eval", str(found["left"].folder), f"{right.folder}/x", "--out", str(last.folder))
    assert [stage.name for stage in read(chain).after("left")] == ["left", "last"]


def test_identity_is_of_what_is_computed(chain: Path, work: Path, stages: Write) -> None:
    before = fingerprints(chain)
    (work / "left.yaml").write_text("# the same in other words\nlr: 0.1\nmodel:\n  depth: 4\n  preset: tiny\n")
    assert fingerprints(chain) == before
    other = CHAIN.replace("processes: 2", "processes: 4").replace("threads: 3", "").replace("1.5", "9")
    stages(other.replace("nodes: 2", "nodes: 1").replace("gpus: 4", "").replace("partition: long", ""))
    assert fingerprints(chain) == before
    assert [stage.fingerprint for stage in plan(chain, work / "elsewhere")] == list(before.values())


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (("8000", "8001"), {"raw", "left", "right", "last"}),
        (("1e-4", "2e-4"), {"right", "last"}),
        (("[alone]", "[alone, twice]"), {"alone"}),
        (("run: [alone]", "run: [alone]\n  needs: [raw]"), {"alone"}),
    ],
)
def test_a_change_reaches_dependants_and_only_them(
    chain: Path, stages: Write, change: tuple[str, str], changed: set[str]
) -> None:
    before = fingerprints(chain)
    after = fingerprints(stages(CHAIN.replace(*change)))
    assert {name for name in before if before[name] != after[name]} == changed


def test_the_content_of_a_config_counts(chain: Path, work: Path) -> None:
    before = fingerprints(chain)
    (work / "left.yaml").write_text("model: {preset: tiny, depth: 5}\nlr: 0.1\n")
    after = fingerprints(chain)
    assert {name for name in before if before[name] != after[name]} == {"left", "last"}


def test_a_config_that_a_stage_writes_is_its_dependency(stages: Write) -> None:
    file = stages('a: {run: [tune]}\nb: {run: [train, "--config={a}/best.yaml"]}')
    assert plan(file)[1].needs == ("a",)


def test_braces_that_are_no_reference_stay(stages: Write) -> None:
    assert plan(stages("""a: {run: [x, '{"k": 1}', '{}']}"""))[0].argv == ("x", '{"k": 1}', "{}")


def test_everything_wrong_is_told_at_once(stages: Write) -> None:
    file = stages(
        """
        a:
          run: [x, "{nobody}"]
          processes: two
          nodes: none
          partition: [a, b]
          colour: red
        b:
          title: [no, text]
        c:
          run: train
          minutes: 0
          needs: a
        d:
          run: [x, --config, absent.yaml, [nested]]
        e:
          run: [x, --config, absent.yaml]
        f:
          run: [x, "{f}"]
        here:
          run: [x]
        """
    )
    with pytest.raises(ConfigError) as caught:
        plan(file)
    lines = str(caught.value).splitlines()
    places = [re.fullmatch(rf"{re.escape(str(file))}: line (\d+): stage '(\w+)': .*", line) for line in lines]
    assert all(places)
    text = file.read_text().splitlines()
    for line, place in zip(lines, places, strict=True):  # the line of the key, or of the stage where the key is missing
        assert place is not None
        written = text[int(place[1]) - 1].split(":")[0].strip()
        assert f"'{written}'" in line or f": {written}: " in line, line
    assert lines == sorted(lines, key=lambda line: int(line.split("line ")[1].split(":")[0]))
    wanted = [
        ("'a'", "run", "'nobody'", "a, b, c"),
        ("'a'", "processes", "'two'", "at least 1"),
        ("'a'", "nodes", "'none'", "at least 1"),
        ("'a'", "partition", "a list", "a text"),
        ("'a'", "'colour'", "expected one of run, each, array"),
        ("'b'", "'run' is missing", "list"),
        ("'b'", "title", "a list", "a text"),
        ("'c'", "run", "'train'", "list of arguments"),
        ("'c'", "minutes", "'0'", "above 0"),
        ("'c'", "needs", "'a'", "list of stage names"),
        ("'d'", "run: item 4", "a list ['nested']"),
        ("'e'", "--config absent.yaml", "no such file"),
        ("'f'", "itself", "{here}"),
        ("'here'", "other than 'here' and 'task'"),
    ]
    for parts in wanted:
        assert any(all(part in line for part in parts) for line in lines), parts
    assert len(lines) == len(wanted)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("stages: {a: {run: [x, '{c}']}, b: {run: [x, '{a}']}, c: {run: [x, '{b}']}}", ["a -> c -> b -> a"]),
        ("stages: {a: {run: [x]}}", ["'folder'", "--out"]),
        ("folder: x", ["'stages' is missing"]),
        ("folder: x\nstages: {a: {run: [x]}}\nstagse: 1", ["'stagse'", "stages"]),
        ("folder: x\nstages:\n  a: {run: [x]}\n  a: {run: [y]}", ["line 4", "'a'", "twice"]),
        ("folder: x\nstages:\n  a:\n    run: [x]\n    run: [y]", ["line 5", "'run'", "twice"]),
        (
            "folder: x\nstages:\n  a:\n    run: [x]\n    minutes: 12:00:00",
            ["line 5", "'a'", "minutes", "'12:00:00'", "above 0", "720 minutes"],
        ),
        ("folder: x\nstages: {}", ["line 2", "stages", "a mapping"]),
        ("folder: ' '\nname: [x]\nstages: {a: {run: [x]}}", ["line 1: folder", "line 2: name", "not empty"]),
        ("- a\n- b", ["a list", "mapping"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_a_wrong_file_is_named(work: Path, text: str, parts: list[str]) -> None:
    file = work / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        plan(file)
    assert all(part in str(caught.value) for part in [str(file), *parts])


def test_a_missing_file_is_named(work: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        plan("nowhere.yaml")


def test_a_base_is_part_of_what_a_stage_computes(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed: 1\n")
    (tmp_path / "top.yaml").write_text("base: base.yaml\ndata: {size: 64}\n")
    file = tmp_path / "stages.yaml"
    run = f'[train, --config, "{tmp_path / "top.yaml"}", --run, "{{here}}"]'
    file.write_text(f"folder: {tmp_path}/out\nstages:\n  a:\n    run: {run}\n")
    first = plan(file)[0].fingerprint
    assert plan(file)[0].fingerprint == first
    (tmp_path / "base.yaml").write_text("seed: 2\n")
    assert plan(file)[0].fingerprint != first


SHARES = """
raw: {run: [generate, --out, "{here}"]}
shares:
  run: [build, --root, "{raw}", --out, "{here}/set", --task, "{task}"]
  array: 3
  at_once: 2
joined: {run: [build, --root, "{raw}", --out, "{shares}/set"]}
"""


def test_an_array_is_so_many_jobs_that_know_their_share(stages: Write) -> None:
    raw, shares, joined = plan(stages(SHARES))
    assert (shares.array, shares.at_once, shares.task) == (3, 2, None)
    assert raw.jobs == (raw,)
    assert [job.task for job in shares.jobs] == [0, 1, 2]
    assert [job.argv[-1] for job in shares.jobs] == ["1/3", "2/3", "3/3"]
    assert [job.folder for job in shares.jobs] == [shares.folder / "array-3" / str(task) for task in range(3)]
    assert {job.argv[4] for job in shares.jobs} == {f"{shares.folder}/set"}  # {here} is the stage's, not the task's
    assert shares.jobs[1].label == "shares task 1"
    assert {(job.fingerprint, job.needs) for job in shares.jobs} == {(shares.fingerprint, ("raw",))}
    assert joined.needs == ("raw", "shares")


def test_the_number_of_tasks_is_not_what_is_computed(stages: Write) -> None:
    before = fingerprints(stages(SHARES))
    assert fingerprints(stages(SHARES.replace("array: 3", "array: 64").replace("at_once: 2", "at_once: 9"))) == before
    assert fingerprints(stages(SHARES.replace('"{task}"', '"{task}", --of, 3'))) != before


def test_tasks_side_by_side_share_the_cores(stages: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconvnet.launch.graph.stages.cores", lambda: 8)
    threads = [plan(stages(SHARES.replace("array: 3", f"array: {n}")))[1].threads for n in (1, 2, 64)]
    assert threads == [8, 4, 4]
    assert plan(stages(SHARES.replace("at_once: 2", "").replace("array: 3", "array: 64")))[1].threads == 1


@pytest.mark.parametrize(
    ("change", "output"),
    [
        (("array: 3", "array: none"), "array: got 'none', expected a whole number"),
        (("array: 3\n  at_once: 2", ""), "run: {task}: only a stage with array has tasks"),
        (('--task, "{task}"', "--fast"), "array: each task would do the same"),
        (("run: [generate", "at_once: 2, run: [generate"), "at_once: limits the tasks of an array"),
    ],
)
def test_what_is_wrong_with_an_array_is_told(stages: Write, change: tuple[str, str], output: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(stages(SHARES.replace(*change)))
    assert output in str(caught.value)


def test_a_graph_of_a_thousand_stages_is_read_in_one_pass(stages: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each configuration once, however many stages name it, and stages in any order in steps that grow with them."""
    read_files: list[str] = []
    known = fingerprint._read

    def counted(name: str) -> Any:
        read_files.append(name)
        return known(name)

    monkeypatch.setattr(fingerprint, "_read", counted)
    Path("a.yaml").write_text("seed: 1\n")
    Path("b.yaml").write_text("base: a.yaml\n")
    lines = [f's{n}: {{run: [train, --config, {"ab"[n % 2]}.yaml, --data, "{{s{n + 1}}}"]}}' for n in range(999)]
    found = plan(stages("\n".join([*lines, "s999: {run: [x]}"])))
    assert [stage.name for stage in found] == [f"s{n}" for n in reversed(range(1000))]
    assert read_files == ["a.yaml", "b.yaml"]
