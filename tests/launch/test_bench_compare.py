"""`laconvnet bench compare` and the page of `laconvnet bench show --out`: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconvnet.launch import cli


def row(name: str, median: float | None, **more: Any) -> dict[str, Any]:
    found = {"bench": "infer", "name": name, "median": median, "spread": 0.1, "rounds": 9, "unit": "ms", "note": None}
    return {**found, "device": "P, 2 threads", **more}


def file(place: Path, name: str, *rows: dict[str, Any]) -> Path:
    path = place / name
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_rows_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The old file is one of before: without ids, machines and rounds."""
    before = {key: value for key, value in row("laconv", 10).items() if key != "rounds"}
    old = file(tmp_path, "old", before, row("gone", 1))
    new = file(tmp_path, "new", row("laconv", 12, id="infer/laconv/cpu2", machine="m"), row("added", 2))
    assert cli.main(["bench", "compare", str(old), str(new), "--json"]) == 0
    output = capsys.readouterr()
    found = {one["id"]: one for one in map(json.loads, output.out.splitlines())}
    assert {name: one["change"] for name, one in found.items()} == {
        "infer/laconv/cpu2": "worse",
        "infer/gone/cpu2": "only old",
        "infer/added/cpu2": "only new",
    }
    assert found["infer/laconv/cpu2"]["ratio"] == pytest.approx(1.2)
    assert found["infer/laconv/cpu2"]["unit"] == "ms"
    low, high = found["infer/laconv/cpu2"]["new_interval"]
    assert low < 12 < high
    assert not output.err, "the device is the same, and the old file tells no machine"


def test_the_table_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = file(tmp_path, "old", row("laconv", 10, ratio=2.0))
    new = file(tmp_path, "new", row("laconv", 5, ratio=4.0))
    assert cli.main(["bench", "compare", str(old), str(new)]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert "interval" not in heading
    assert line.split() == ["infer/laconv/cpu2", "ms", "10", "5", "0.5", "better", "2", "4"]


@pytest.mark.parametrize(("percent", "code"), [("19", 1), ("21", 0)])
def test_a_regression_fails_where_it_is_asked_to(
    percent: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = file(tmp_path, "old", row("laconv", 10), row("noisy", 10, spread=30))
    new = file(tmp_path, "new", row("laconv", 12), row("noisy", 20))
    assert cli.main(["bench", "compare", str(old), str(new)]) == 0
    assert cli.main(["bench", "compare", str(old), str(new), "--fail-above", percent]) == code
    message = capsys.readouterr().err
    assert ("infer/laconv/cpu2" in message) == bool(code)
    assert "noisy" not in message


@pytest.mark.parametrize("key", ["machine", "device"])
def test_another_machine_is_warned_of(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = file(tmp_path, "old", row("laconv", 10, **{key: "A, 2 threads"}))
    new = file(tmp_path, "new", row("laconv", 10, **{key: "B, 2 threads"}))
    assert cli.main(["bench", "compare", str(old), str(new)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert all(part in line for part in (f"{old} is of A, 2 threads", f"{new} of B, 2 threads", key))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", "line 1"),
        ('{"bench": "infer", "name": "a", "median": "fast"}\n', "line 1"),
        ("", "no rows"),
        (None, "No such file"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_bad_file_is_one_line(
    text: str | None, message: str, place: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = file(tmp_path, "good", row("laconv", 10)), tmp_path / "bad"
    if text is not None:
        bad.write_text(text)
    files = [good, good]
    files[place] = bad
    assert cli.main(["bench", "compare", *map(str, files)]) == 2
    output = capsys.readouterr()
    assert not output.out
    (line,) = output.err.splitlines()
    assert str(bad) in line
    assert message in line


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = file(tmp_path, "old", row("laconv", 10)), file(tmp_path, "new", row("other", 10))
    for words, message in (
        ([old, new, "--fail-above", "-1"], "--fail-above: -1"),
        ([old, new, "--fail-above", "nan"], "--fail-above: nan"),
        ([old, new, "--fail-above", "5"], "--fail-above has nothing to look at"),
        ([old, tmp_path], f"{tmp_path}: is a folder"),
    ):
        assert cli.main(["bench", "compare", *map(str, words)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_a_page_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "show", str(tmp_path), "--out", str(tmp_path / "README.md")]) == 2
    assert f"{tmp_path}: holds no .jsonl" in capsys.readouterr().err
    file(tmp_path, "2026-01-01-m.jsonl", row("laconv", 10))
    file(tmp_path, "2026-01-02-m.jsonl", row("laconv", 11))
    assert cli.main(["bench", "show", str(tmp_path), "--out", str(tmp_path / "README.md")]) == 0
    text = (tmp_path / "README.md").read_text()
    for day in ("01", "02"):
        assert f'<a id="2026-01-{day}-m/infer/laconv/cpu2"></a>' in text
    assert not capsys.readouterr().out
    assert cli.main(["bench", "show", str(tmp_path)]) == 0
    assert "laconv" in capsys.readouterr().out
    assert cli.main(["bench", "show", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert f"--out: {tmp_path}" in capsys.readouterr().err
    assert not list(tmp_path.glob(".partial*"))
