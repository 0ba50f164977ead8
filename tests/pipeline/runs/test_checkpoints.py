"""Which checkpoints of a run are whole, by their markers alone; nothing of a state is loaded."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import xxhash

from laconvnet import files
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.runs import checkpoints

DATA = bytes(range(256)) * 20_000  # longer than is read at once


def publish(run: Path, number: int, **changes: Any) -> Path:
    """A checkpoint of two files; ``changes`` go into its marker, None takes a key away."""
    folder = run / "checkpoints" / f"step-{number:08d}"
    folder.mkdir(parents=True)
    for name in ("state.pt", "vocabulary.json"):
        (folder / name).write_bytes(DATA + name.encode())
    described = {name: checkpoints.describe(folder / name) for name in ("state.pt", "vocabulary.json")}
    marker = {"version": 2, "step": number, "score": 0.5, "config": "c", "data": "d", "code": "v1", "files": described}
    kept = {name: value for name, value in (marker | changes).items() if value is not None}
    (folder / "COMMIT").write_text(json.dumps(kept))
    return folder


def test_a_file_is_described_by_its_size_and_checksum(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(DATA)
    assert checkpoints.describe(tmp_path / "it") == {"bytes": len(DATA), "xxh3": xxhash.xxh3_64_hexdigest(DATA)}
    (tmp_path / "it").write_bytes(b"")
    assert checkpoints.describe(tmp_path / "it") == {"bytes": 0, "xxh3": xxhash.xxh3_64_hexdigest(b"")}


def test_a_whole_one_tells_what_its_marker_says(tmp_path: Path) -> None:
    folder = publish(tmp_path, 7)
    found = checkpoints.inspect(folder)
    assert (found.folder, found.damage, found.is_whole) == (folder, None, True)
    assert found.marker == checkpoints.read_marker(folder)
    marker = checkpoints.read_marker(folder)
    assert (marker.version, marker.step, sorted(marker.files)) == (2, 7, ["state.pt", "vocabulary.json"])
    assert (marker.score, marker.config, marker.data, marker.code) == (0.5, "c", "d", "v1")
    old = checkpoints.read_marker(publish(tmp_path, 8, version=1, score=None, config=None, data=None, code=None))
    assert (old.version, old.score, old.config, old.data, old.code) == (1, None, None, None, None)


def test_they_come_by_their_steps_and_nothing_else_is_one(tmp_path: Path) -> None:
    assert checkpoints.published(tmp_path) == []
    assert checkpoints.newest(tmp_path) is None
    steps = [publish(tmp_path, step) for step in (123_456_789, 9, 10)]
    for name in (".partial.x.step-00000099", "damaged-step-00000011", "notes"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert checkpoints.published(tmp_path) == [steps[1], steps[2], steps[0]]
    assert [found.folder for found in checkpoints.survey(tmp_path)] == [steps[0], steps[2], steps[1]]
    assert checkpoints.newest(tmp_path) == steps[0]
    (steps[0] / "state.pt").unlink()
    assert checkpoints.newest(tmp_path) == steps[2]


def test_a_place_is_a_run_or_a_checkpoint(tmp_path: Path) -> None:
    older, newest = publish(tmp_path, 1), publish(tmp_path, 2)
    assert checkpoints.resolve(tmp_path) == newest
    assert checkpoints.resolve(older) == older
    elsewhere = newest.rename(tmp_path / "kept")  # told by its marker
    assert checkpoints.resolve(elsewhere) == elsewhere
    assert checkpoints.is_whole(older)
    assert not checkpoints.is_whole(tmp_path / "checkpoints" / "step-00000002")
    for place in ("nothing", "step-00000009", "checkpoints/nothing"):  # a checkpoint's place is both folders' names
        with pytest.raises(ConfigError, match=rf"{place}: holds no checkpoint"):
            checkpoints.resolve(tmp_path / place)


def test_the_best_stands_for_a_run_where_validation_chooses(tmp_path: Path) -> None:
    run, miou = tmp_path / "run", {"metric": "miou", "split": "val"}
    first, best, last = (publish(run, step, score=score, **miou) for step, score in ((1, 0.2), (2, 0.7), (3, 0.7)))
    unvalidated = publish(run, 4, score=None)
    other = publish(run, 5, score=0.9, metric="acc@0.5", split="val")
    chosen = checkpoints.choose(run)
    assert chosen.folder == other, "of what the newest validation went by, the only one"
    (other / "COMMIT").unlink()
    other.rename(tmp_path / "elsewhere")
    chosen = checkpoints.choose(run)
    assert (chosen.folder, chosen.step) == (best, 2)
    assert f"{chosen}" == "step 2, its best by miou on val (0.7000)"
    for found in (checkpoints.choose(run, last=True), checkpoints.choose(run / "checkpoints" / "last")):
        assert (found.folder, found.why) == (unvalidated, "its last checkpoint")
    assert checkpoints.choose(last).why == "as it was named"
    assert checkpoints.run_of(last) == checkpoints.run_of(run) == checkpoints.run_of(run / "checkpoints/last") == run
    (best / "state.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"^{best}: the best checkpoint by miou on val is damaged.*checkpoints/last"):
        checkpoints.choose(run)
    assert checkpoints.choose(run, last=True).folder == unvalidated
    (first / "COMMIT").unlink()  # it may have been the best of all
    with pytest.raises(ConfigError, match=rf"^{first}: damaged, COMMIT is gone.*checkpoints/last"):
        checkpoints.choose(run)


@pytest.mark.parametrize(
    "later",
    [
        {"metric": None, "split": None},  # of version 0.1, or not validated
        {"metric": "loss", "split": None},  # kept by what training reports
        {"metric": "miou", "split": "val", "score": None},  # validated with keep_best false
    ],
)
def test_the_last_stands_for_a_run_where_validation_does_not_choose(tmp_path: Path, later: dict[str, Any]) -> None:
    publish(tmp_path, 1, score=0.1, **({"metric": "miou", "split": "val"} if later["split"] else {}))
    last = publish(tmp_path, 2, **later)
    assert checkpoints.choose(tmp_path).folder == last


@pytest.mark.parametrize("whole_before", [True, False])
def test_a_damaged_newest_one_is_told_with_the_one_before(tmp_path: Path, whole_before: bool) -> None:
    first, second, third = (publish(tmp_path, step) for step in (1, 2, 3))
    for folder in (second, third) if whole_before else (first, second, third):
        (folder / "COMMIT").unlink()
    with pytest.raises(ConfigError) as caught:
        checkpoints.resolve(tmp_path)
    assert str(caught.value).startswith(f"{third}: ")
    assert "COMMIT is gone" in str(caught.value)
    assert (f"{first} is whole" in str(caught.value)) == whole_before
    with pytest.raises(ConfigError, match=rf"^{third}: damaged, COMMIT is gone"):
        checkpoints.resolve(third)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("version", None), ("version", 0), ("version", "2"), ("version", [2]), ("version", 1.5)],
        *[("step", None), ("step", "7"), ("files", None), ("files", {}), ("files", ["state.pt"])],
    ],
)
def test_a_marker_that_was_not_written_so_is_damage(tmp_path: Path, key: str, value: Any) -> None:
    folder = publish(tmp_path, 7, **{key: value})
    found = checkpoints.inspect(folder)
    assert not found.is_whole
    assert "COMMIT is not what was written" in (found.damage or "")
    with pytest.raises(checkpoints.Damaged, match="version, step or files"):
        checkpoints.read_marker(folder)


@pytest.mark.parametrize("version", [3, 99])
def test_a_newer_version_is_the_users_to_mend(tmp_path: Path, version: int) -> None:
    for look in (checkpoints.inspect, checkpoints.read_marker):
        with pytest.raises(ConfigError, match=rf"COMMIT: version {version}, expected one of 1, 2"):
            look(publish(tmp_path / look.__name__, 1, version=version))


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_marker_that_is_no_object_is_damage(tmp_path: Path, text: str) -> None:
    folder = publish(tmp_path, 7)
    (folder / "COMMIT").write_text(text)
    assert "COMMIT is not what was written" in (checkpoints.inspect(folder).damage or "")


@pytest.mark.parametrize(
    ("data", "told"),
    [(None, "state.pt is gone"), (DATA, f"has {len(DATA)} bytes, {len(DATA) + 8} were"), (DATA + b"state.pT", "other")],
)
def test_a_file_that_differs_is_told(tmp_path: Path, data: bytes | None, told: str) -> None:
    file = publish(tmp_path, 7) / "state.pt"
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    assert told in (checkpoints.inspect(file.parent).damage or "")


def test_what_a_marker_says_of_a_file_may_be_damaged_itself(tmp_path: Path) -> None:
    folder = publish(tmp_path, 7, files={"state.pt": 12})
    assert "12 were written" in (checkpoints.inspect(folder).damage or "")


def test_a_file_is_damaged_when_it_is_so_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, described = publish(tmp_path, 7), checkpoints._described
    for wrong in (1, 2):
        looks: list[Path] = []

        def look(file: Path, wrong: int = wrong, looks: list[Path] = looks) -> dict[str, Any]:
            looks.append(file)
            return described(file) | ({"bytes": 1} if len(looks) <= wrong else {})

        monkeypatch.setattr(checkpoints, "_described", look)
        found = checkpoints.inspect(folder)
        assert found.is_whole == (wrong == 1)
        assert looks[:2] == [folder / "state.pt"] * 2
        assert found.is_whole or "state.pt has 1 bytes" in (found.damage or "")


def test_what_cannot_be_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(tmp_path, 7)
    monkeypatch.setattr(files, "_PAUSES_SECONDS", ())

    def broken(file: Path) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoints, "_described", broken)
    with pytest.raises(OSError, match=r"state\.pt") as caught:
        checkpoints.inspect(folder)
    assert caught.value.errno == errno.EIO


def test_a_run_without_a_whole_one_is_told_of_each(tmp_path: Path) -> None:
    for step in (1, 2):
        (publish(tmp_path, step) / "COMMIT").unlink()
    told = str(checkpoints.none_whole(tmp_path, list(checkpoints.survey(tmp_path))))
    assert told.startswith(f"{tmp_path}: ")
    for part in ("step-00000001: COMMIT is gone", "step-00000002: COMMIT is gone", "--run"):
        assert part in told
