"""Reading from storage that stutters, reading a part of a file, adding lines to one, and old leftovers."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from laconvnet import files

PASSING = [errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.EREMOTEIO]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


class Storage:
    """Fails so many times with an error before it answers."""

    def __init__(self, number: int, times: int, file: str | None = None) -> None:
        self.number, self.times, self.file, self.asked = number, times, file, 0

    def __call__(self) -> str:
        self.asked += 1
        if self.asked <= self.times:
            raise OSError(self.number, os.strerror(self.number), self.file)
        return "answer"


@pytest.mark.parametrize("number", PASSING)
def test_an_error_that_may_pass_is_waited_out_ever_longer(slept: list[float], number: int) -> None:
    for times in range(4):
        del slept[:]
        assert files.retried(Path("it"), Storage(number, times)) == "answer"
        assert slept == [0.1, 0.5, 2.0][:times]
    storage = Storage(number, 99)
    with pytest.raises(OSError, match="it") as caught:
        files.retried(Path("it"), storage)
    assert (caught.value.errno, caught.value.filename, storage.asked) == (number, "it", 4)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENOSPC])
def test_one_that_does_not_pass_is_told_at_once(slept: list[float], number: int) -> None:
    storage = Storage(number, 1, "its own name")
    with pytest.raises(OSError, match="its own name") as caught:
        files.retried(Path("it"), storage)
    assert (caught.value.filename, storage.asked, slept) == ("its own name", 1, [])


def test_a_part_of_a_file_is_read_from_a_handle_however_little_a_read_brings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "it"
    file.write_bytes(bytes(range(20)))
    pread = os.pread
    with file.open("rb") as stream:
        for most in (1, 3, 7, 100):
            monkeypatch.setattr(os, "pread", lambda at, length, offset, most=most: pread(at, min(length, most), offset))
            assert files.pread(stream.fileno(), file, 7, 5) == bytes(range(5, 12))
            assert files.pread(stream.fileno(), file, 9, 15) == bytes(range(15, 20))
            assert files.pread(stream.fileno(), file, 4, 20) == b""


@pytest.mark.usefixtures("slept")
def test_a_stale_handle_is_opened_again_and_another_fault_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "it"
    file.write_bytes(b"0123456789")
    pread, given = os.pread, [errno.ESTALE]

    def fails_on_the_old_handle(at: int, length: int, offset: int) -> bytes:
        if at == stream.fileno():
            raise OSError(given[0], os.strerror(given[0]))
        return pread(at, length, offset)

    monkeypatch.setattr(os, "pread", fails_on_the_old_handle)
    with file.open("rb") as stream:
        assert files.pread(stream.fileno(), file, 3, 4) == b"456"
        given[0] = errno.EBADF
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            files.pread(stream.fileno(), file, 3, 4)


def test_names_in_a_folder_are_sorted_and_none_where_there_is_no_folder(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).touch()
    assert files.names_in(tmp_path) == ["a", "b", "c"]
    assert files.names_in(tmp_path / "absent") == files.names_in(tmp_path / "a") == []


@pytest.mark.parametrize(
    ("error", "unreadable"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (PermissionError(errno.EACCES, "Permission denied"), True),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), False),
        (OSError("a parquet file of other bytes"), False),
        (ValueError("damaged"), False),
    ],
)
def test_what_cannot_be_read_is_told_from_what_is_absent_or_damaged(error: Exception, unreadable: bool) -> None:
    assert files.is_unreadable(error) is unreadable


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, "new\n"), ("", "new\n"), ("one\n", "one\nnew\n"), ("one\nto", "one\nto\nnew\n"), ("x", "x\nnew\n")],
)
def test_a_line_is_added_behind_whole_lines(tmp_path: Path, before: str | None, after: str) -> None:
    file = tmp_path / "log.jsonl"
    if before is not None:
        file.write_text(before)
    with files.appending(file) as stream:
        stream.write("new\n")
    assert file.read_text() == after


def test_leftovers_that_a_writer_may_be_at_stay(tmp_path: Path) -> None:
    for name, age in (("old", 100), ("new", 0)):
        for kind in ("file", "folder"):
            left = tmp_path / f".partial.0000000{kind[1]}.{name}-{kind}"
            (left.touch if kind == "file" else left.mkdir)()
            os.utime(left, (time.time() - age,) * 2)
    files.remove_leftovers(tmp_path, older=50)
    assert sorted(path.name[18:] for path in tmp_path.iterdir()) == ["new-file", "new-folder"]
    files.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_leftover_that_cannot_be_removed_yet_stays_without_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server keeps what is still open; and another start may be clearing up, too."""
    (tmp_path / ".partial.00000001.folder").mkdir()
    (tmp_path / ".partial.00000002.file").touch()
    rmdir, unlink = os.rmdir, os.unlink

    def busy(path: Path, **options: int) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    def gone(path: Path) -> None:
        unlink(path)
        unlink(path)

    monkeypatch.setattr(os, "rmdir", busy)
    monkeypatch.setattr(os, "unlink", gone)
    files.remove_leftovers(tmp_path)
    assert files.names_in(tmp_path) == [".partial.00000001.folder"]
    monkeypatch.setattr(os, "rmdir", rmdir)
    files.remove_leftovers(tmp_path)
    assert files.names_in(tmp_path) == []


def test_a_text_and_a_json_take_the_place_of_what_was_there(tmp_path: Path) -> None:
    for text in ("one", "another one"):
        files.publish_json(tmp_path / "json", {"it": text})
        with files.publishing(tmp_path / "text") as partial:
            partial.write_text(text)
        assert files.read_json(tmp_path / "json") == {"it": text}
        assert (tmp_path / "json").read_text() == f'{{\n "it": "{text}"\n}}\n'
        assert (tmp_path / "text").read_text() == text
