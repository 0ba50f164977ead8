"""What YAML would pass over or misread is refused with file, line, key and value; the rest is read as it always was."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from laconvnet.pipeline import yaml_files
from laconvnet.pipeline.config import load
from laconvnet.pipeline.errors import ConfigError
from tests.messages import tells


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "it.yaml"


def refused(file: Path, text: str, as_text: bool = False) -> list[str]:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        yaml_files.read(file, as_text=as_text)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("text", "line", "key", "first"),
    [
        ("optimizer:\n  lr: 1\nmodel: {}\noptimizer:\n  clip: 2\n", 4, "optimizer", 1),
        ("a: {b: {lr: 1, c: 0, lr: 1}}", 1, "lr", 1),
        ("- x: 1\n  y: 2\n  x: 3\n", 3, "x", 1),
        ("a: &h {x: 1}\nb: *h\na: 2\n", 3, "a", 1),
    ],
)
def test_a_key_given_twice_is_refused(file: Path, text: str, line: int, key: str, first: int, as_text: bool) -> None:
    (message,) = refused(file, text, as_text)
    assert tells(message, f"{file}: line {line}: ", f"'{key}'", "twice")
    assert f"line {first};" in message


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("12:00:00", ["720 minutes", "43200 seconds", "'12:00:00'"]),
        ("1:30", ["90 minutes", "90 seconds", "'1:30'"]),
        ("-1:20", ["'-1:20'"]),
        ("1:2:3.5", ["'1:2:3.5'"]),
        ("010", ["8", "'010'"]),
        ("-0_17", ["-15", "'-0_17'"]),
    ],
)
def test_a_number_that_nobody_meant_is_refused(file: Path, written: str, parts: list[str]) -> None:
    text = f"a:\n  minutes: {written}\n"
    (message,) = refused(file, text)
    assert message.startswith(f"{file}: line 2: a.minutes: {written} is ")
    assert all(part in message for part in parts)
    assert yaml_files.read(file, as_text=True).value == {"a": {"minutes": written}}
    file.write_text(f"a: '{written}'\nb: \"{written}\"\n")
    assert yaml_files.read(file).value == {"a": written, "b": written}


def test_all_that_is_wrong_is_reported_at_once(file: Path) -> None:
    messages = refused(file, "a: 1:30\nb: [x, 010]\na: 2\n")
    assert [line.split(": ")[1:3] for line in messages] == [
        ["line 1", "a"],
        ["line 2", "b"],
        ["line 3", "key 'a' is given twice, first in line 1; keep one of them"],
    ]


def test_a_key_given_three_times_names_the_first_each_time(file: Path) -> None:
    messages = refused(file, "a: 1\nb: 2\na: 3\na: 4\n")
    assert [re.findall(r"line \d", message) for message in messages] == [["line 3", "line 1"], ["line 4", "line 1"]]


def test_what_yaml_documents_is_read_as_it_was(file: Path) -> None:
    text = "[yes, no, on, off, ~, 1e-4, 1.0e-4, 1_000, 0x10, .5, 08, 0, -3, 2024-01-01, 1:75, a:1]"
    day = datetime.date(2024, 1, 1)
    file.write_text(f"a: {text}\n")
    found = [True, False, True, False, None, "1e-4", 1e-4, 1000, 16, 0.5, "08", 0, -3, day, "1:75", "a:1"]
    assert yaml_files.read(file).value == {"a": found}
    file.write_text("a: &h {x: 1, y: 2}\nb: {<<: *h, y: 3}\n")
    assert yaml_files.read(file).value["b"] == {"x": 1, "y": 3}


def test_a_tree_that_contains_itself_or_is_too_deep_is_refused(file: Path) -> None:
    assert "a: an alias contains itself" in refused(file, "a: &x [1, *x]\n")[0]
    assert "too deeply" in refused(file, "[" * 3000)[0]
    file.write_text("[" * yaml_files.MAX_DEPTH + "]" * yaml_files.MAX_DEPTH)
    yaml_files.read(file)


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("opening", ["[", "- ", "{a: ", "? "])
def test_nesting_without_end_is_refused_before_a_library_follows_it(file: Path, opening: str, as_text: bool) -> None:
    file.write_text("seed: 1\nb:\n  " + opening * 100_000)
    with pytest.raises(ConfigError, match=rf"^{file}: line 3: nested too deeply, .* {yaml_files.MAX_DEPTH} "):
        yaml_files.read(file, as_text=as_text)


def test_aliases_of_aliases_are_counted_as_they_stand_written_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]" for number in range(1, 12)]
    (fault,) = refused(file, "\n".join(["a0: &a0 [x]", *lines]))
    assert "aliases" in fault
    monkeypatch.setattr(yaml_files, "MAX_VALUES", 7)
    file.write_text("a: &a [1, 2]\nb: *a\n")  # itself, two lists, and two values in each
    yaml_files.read(file)
    assert "aliases" in refused(file, "a: &a [1, 2]\nb: *a\nc: 1\n")[0]


@pytest.mark.parametrize(
    "written", ["1" * 10_000, "0x" + "f" * 10_000, "0" + "7" * 10_000, "!!bool perhaps", "!!timestamp x", "!!int _"]
)
def test_what_is_no_number_or_is_one_without_end_is_told(file: Path, written: str) -> None:
    (fault,) = refused(file, f"a: {written}\n")
    assert len(fault) < 300
    with pytest.raises(ValueError, match="value "):
        yaml_files.value(written)


def test_the_line_of_a_key_is_known(file: Path) -> None:
    file.write_text("a:\n  b:\n  - x\n  - y: 1\n    z: {q: 2}\n1: c\n")
    document = yaml_files.read(file)
    places = [("a",), ("a", "b"), ("a", "b", 1), ("a", "b", 1, "z", "q"), (1,), ("a", "none", "b"), ("none",), ()]
    assert [document.line(place) for place in places] == [1, 2, 4, 5, 6, 1, None, None]


def test_a_base_is_read_as_carefully(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("data: {folder: x}\nschedule:\n  epochs: 1:30\n")
    (tmp_path / "top.yaml").write_text("base: low.yaml\nseed: 1\n")
    with pytest.raises(ConfigError, match=r"low\.yaml: line 3: schedule\.epochs: 1:30 "):
        load(tmp_path / "top.yaml")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--schedule.epochs", "1:30"), ["schedule.epochs", "'1:30'", "90 minutes"]),
        (("--seed=010",), ["seed", "'010'", "8"]),
        (("--optimizer", "{lr: 1, lr: 2}"), ["optimizer", "'lr'", "twice"]),
    ],
)
def test_the_command_line_is_read_as_carefully(words: tuple[str, ...], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, ["--data.folder", "x", *words])
    assert str(caught.value).startswith("command line: --")
    assert all(part in str(caught.value) for part in parts)
    # A text is what was typed.
    assert load(None, ["--data.folder", "12:00:00", "--init_from", "010"]).data.folder == "12:00:00"
