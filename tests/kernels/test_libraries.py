"""Libraries on the disk: whole or not loaded, built by any number of processes; a compiler's accident is forgotten."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laconvnet.kernels import folders, libraries
from laconvnet.kernels.compilers import BuildError, CompilerError
from laconvnet.trust import distrusted

FORK = multiprocessing.get_context("fork")
NAME, FILE = "one", "lib.so"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LACONVNET_KERNEL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(folders, "_said", set())
    folders._of_this_process.cache_clear()
    return tmp_path / "cache"


class Maker:
    """Makes a library and counts how often."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.calls, self.seconds = folder / "calls", seconds
        self.inside: Callable[[], None] = lambda: None

    def __call__(self, staging: Path) -> dict[str, Any]:
        with self.calls.open("a") as file:
            file.write("call\n")
        time.sleep(self.seconds)
        self.inside()
        (staging / FILE).write_bytes(b"machine code")
        return {"by": "this test"}

    @property
    def count(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def obtain(make: Maker, **options: Any) -> libraries.Stored:
    return libraries.obtain(NAME, FILE, make, **options)


def test_made_once_with_a_manifest(place: Path, make: Maker) -> None:
    first = obtain(make)
    assert first.path == place / NAME / FILE
    assert first.made_from["by"] == "this test"
    assert first.made_from["bytes"] == 12
    assert len(first.made_from["sha256"]) == 64
    assert obtain(make) == first
    assert make.count == 1
    assert sorted(path.name for path in first.folder.iterdir()) == [FILE, libraries.MANIFEST]


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "changed", "gone", "no manifest", "list", "no folder", "no library"]
)
def test_damage_is_found_named_and_built_anew(
    damage: str, place: Path, make: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = obtain(make)
    manifest = stored.folder / libraries.MANIFEST
    if damage == "empty":
        stored.path.write_bytes(b"")
    elif damage == "cut":
        stored.path.write_bytes(b"machine")
    elif damage == "changed":
        stored.path.write_bytes(b"machine c0de")
    elif damage == "gone":
        stored.path.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "list":
        manifest.write_text("[]")
    elif damage == "no library":
        manifest.write_text(json.dumps({"by": "this test"}))
    else:
        for path in (stored.path, manifest):
            path.unlink()
        stored.folder.rmdir()
        stored.folder.write_text("a file")
    assert (libraries.damage(NAME, FILE) is None) == (damage == "no folder")
    assert obtain(make).path.read_bytes() == b"machine code"
    assert make.count == 2
    said = capsys.readouterr().err.splitlines()
    if damage != "no folder":
        assert len(said) == 1
        assert all(part in said[0] for part in (str(stored.path), "damaged", "not loaded"))
    assert [path.name for path in place.iterdir() if path.is_dir()] == [NAME], "the damaged one is gone"
    assert libraries.damage(NAME, FILE) is None


def test_what_runs_keeps_the_library_that_it_has(place: Path, make: Maker) -> None:
    stored = obtain(make)
    with stored.path.open("rb") as loaded:
        (stored.folder / libraries.MANIFEST).unlink()
        obtain(make)
        assert loaded.read() == b"machine code"


def obtained_by_three(folder: Path) -> Maker:
    """What three processes asked for the library at once, and got."""
    slow = Maker(folder, 0.3)
    processes = [FORK.Process(target=obtain, args=(slow,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    return slow


def test_several_processes_at_once(place: Path, tmp_path: Path) -> None:
    slow = obtained_by_three(tmp_path)
    assert slow.count == 1
    assert obtain(slow).path.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EIO, errno.ENOSYS])
def test_without_locks_the_first_result_stays(
    code: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    slow = obtained_by_three(tmp_path)
    assert slow.count == 3
    assert [path.name for path in place.iterdir() if path.is_dir()] == [NAME]


def test_the_second_of_two_drops_its_result(place: Path, make: Maker) -> None:
    def other() -> None:
        make.inside = lambda: None
        libraries._make(place, NAME, FILE, make)
        (place / NAME / "first").touch()

    make.inside = other
    assert obtain(make).path.exists()
    assert make.count == 2
    assert (place / NAME / "first").exists()
    assert not list(place.glob(".partial.*"))


def test_waiting_ends(place: Path, make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "WAIT_SECONDS", 0.3)
    place.mkdir(mode=0o700)
    with (place / f".{NAME}.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        began = time.monotonic()
        assert obtain(make).path.exists()
        assert time.monotonic() - began >= 0.3
    assert make.count == 1


def test_what_a_killed_build_left_goes_when_nobody_can_be_at_it(place: Path, make: Maker) -> None:
    old, young = (place / f".partial.0000000{number}.{NAME}" for number in (1, 2))
    place.mkdir(mode=0o700)
    for left in (old, young):
        left.mkdir()
        (left / FILE).touch()
    os.utime(old, (0, 0))
    obtain(make)
    assert not old.exists()
    assert young.exists()


def test_a_verdict_is_remembered_until_asked_again(place: Path, make: Maker) -> None:
    def fail() -> None:
        raise CompilerError("a.cu(3): error: no such type\n1 error detected", verdict=True)

    make.inside = fail
    with pytest.raises(BuildError, match=r"a\.cu\(3\): error: no such type; all its words: .*one\.failed\.txt"):
        obtain(make)
    make.inside = lambda: None
    with pytest.raises(BuildError, match=r"an earlier build failed: .*one\.failed\.txt"):
        obtain(make)
    assert make.count == 1
    assert "1 error detected" in (place / f"{NAME}.failed.txt").read_text()
    assert obtain(make, retry=True).path.exists()
    assert not (place / f"{NAME}.failed.txt").exists()


def test_an_accident_is_not_remembered(place: Path, make: Maker) -> None:
    def fail() -> None:
        raise CompilerError("error: ended by signal 9: nvcc", verdict=False)

    make.inside = fail
    with pytest.raises(BuildError, match="signal 9: nvcc"):
        obtain(make)
    make.inside = lambda: None
    assert obtain(make).path.exists()
    assert not list(place.glob("*.failed.txt"))


def test_where_the_compiler_has_no_room_it_is_built_elsewhere(
    place: Path, make: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        make.inside = lambda: None
        raise CompilerError("ld: error: No space left on device", verdict=False)

    make.inside = fail
    stored = obtain(make)
    assert not stored.path.is_relative_to(place) or "laconvnet-kernels" in str(stored.path)
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert str(stored.folder.parent) in said
    assert obtain(make) == stored
    assert make.count == 2


def test_a_full_disk_is_done_without(place: Path, make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        make.inside = lambda: None
        raise OSError(errno.ENOSPC, "No space left on device")

    make.inside = fail
    assert obtain(make).path.exists()
    assert "No space left on device" in capsys.readouterr().err


def refused(place: Path, tmp_path: Path) -> libraries.Stored:
    """The library of a start whose cache cannot be used: in the temporary folder, this user's alone."""
    stored = obtain(Maker(tmp_path))
    private = stored.folder.parent
    assert private.parent == tmp_path / "temporary"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert str(os.geteuid()) in private.name
    return stored


def test_a_cache_that_is_no_folder(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.write_text("")
    monkeypatch.setenv("LACONVNET_KERNEL_CACHE", str(place / "below"))
    refused(place, tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"{place / 'below'}: {place} is no folder" in said[0]
    assert str(tmp_path / "temporary") in said[0]
    make = Maker(tmp_path)
    assert obtain(make).path.exists()
    assert make.count == 1, "the next process finds it there"


def test_a_read_only_cache(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tempfile.TemporaryFile

    def refuse(*arguments: Any, **options: Any) -> Any:
        if Path(options["dir"]).is_relative_to(place):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(*arguments, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    refused(place, tmp_path)


def test_a_user_without_a_home(tmp_path: Path, make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LACONVNET_KERNEL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    assert obtain(make).path.is_relative_to(tmp_path / "temporary" / f"laconvnet-kernels-{os.geteuid()}")


def test_a_new_cache_is_private_whatever_the_umask(place: Path, make: Maker) -> None:
    before = os.umask(0)
    try:
        stored = obtain(make)
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    for path in (stored.folder, *stored.folder.iterdir()):
        assert not path.stat().st_mode & 0o022, path
    assert libraries.examine(stored.folder, FILE) == stored


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_nothing_is_loaded_from_a_cache_that_others_can_write(
    mode: int, place: Path, make: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    obtain(make)
    place.chmod(mode)
    stored = obtain(make)
    assert make.count == 2
    assert stored.folder.parent == place / f"laconvnet-kernels-{os.geteuid()}"
    assert stat.S_IMODE(stored.folder.parent.stat().st_mode) == 0o700
    said = capsys.readouterr().err
    assert f"{mode:o}" in said
    assert str(stored.folder.parent) in said
    assert obtain(make) == stored
    assert make.count == 2


@pytest.mark.parametrize("part", ["folder", "library", "manifest"])
def test_a_library_that_others_can_write_is_built_anew(part: str, place: Path, make: Maker) -> None:
    stored = obtain(make)
    path = {"folder": stored.folder, "library": stored.path, "manifest": stored.folder / libraries.MANIFEST}[part]
    path.chmod(0o777)
    assert obtain(make) == stored
    assert make.count == 2
    assert not path.stat().st_mode & 0o022


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@needs_root
@pytest.mark.parametrize("part", ["cache", "folder", "library"])
def test_nothing_of_another_user_is_loaded(
    part: str, place: Path, make: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = obtain(make)
    path = {"cache": place, "folder": stored.folder, "library": stored.path}[part]
    os.chown(path, 12345, -1)
    again = obtain(make)
    assert make.count == 2
    said = capsys.readouterr().err
    assert f"{path}: belongs to another user (uid 12345)" in said
    if part == "cache":
        assert again.folder.parent == place / f"laconvnet-kernels-{os.geteuid()}"
    else:
        assert again == stored
        assert path.stat().st_uid == 0


@needs_root
def test_a_link_of_another_user_is_not_followed(place: Path, make: Maker, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o700)
    place.symlink_to(tmp_path / "mine")
    assert distrusted(place) is None
    os.chown(place, 12345, -1, follow_symlinks=False)
    assert "another user" in (distrusted(place) or "")
    assert not obtain(make).path.is_relative_to(tmp_path / "mine")


@needs_root
def test_a_name_in_the_temporary_folder_that_another_has_taken(place: Path, make: Maker, tmp_path: Path) -> None:
    place.write_text("no folder")
    taken = tmp_path / "temporary" / f"laconvnet-kernels-{os.geteuid()}"
    taken.mkdir(mode=0o700)
    os.chown(taken, 12345, -1)
    stored = obtain(make)
    assert stored.path.parents[2] == tmp_path / "temporary"
    assert stored.path.parents[1] != taken
    assert list(taken.iterdir()) == []


def test_root_is_trusted_and_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch(0o644)
    assert distrusted(path) is None
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert (distrusted(path) is None) == (path.stat().st_uid == 0)


def test_where_nothing_can_be_written_the_reasons_are_given(
    place: Path, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    make.inside = fail
    with pytest.raises(BuildError) as caught:
        obtain(make)
    message = str(caught.value)
    assert "\n" not in message
    assert str(place) in message
    assert message.count("No space left on device") >= 3
