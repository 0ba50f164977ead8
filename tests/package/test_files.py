"""Publishing: whole or not at all, on the disk before it has its name, without litter; and what a JSON reader tells."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from laconvnet import files
from laconvnet.files import find_object, publish_bytes, publish_json, publish_text, read_json, read_object


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_has_its_name_when_its_bytes_are_on_the_disk_and_then_the_name_is(
    tmp_path: Path, reaching_disk: list[str]
) -> None:
    publish_text(tmp_path / "config.yaml", "seed: 1\n")
    assert reaching_disk == ["sync config.yaml", "rename to config.yaml", f"sync {tmp_path.name}"]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("config.yaml", "seed: 1\n")]


def test_a_folder_has_its_name_when_all_in_it_is_on_the_disk(tmp_path: Path, reaching_disk: list[str]) -> None:
    with files.publishing_folder(tmp_path / "a.set") as partial:
        (partial / "in.ner").mkdir()
        (partial / "in.ner" / "x.txt").write_text("x")
    assert sorted(reaching_disk[:3]) == ["sync a.set", "sync in.ner", "sync x.txt"]
    assert reaching_disk[3:] == ["rename to a.set", f"sync {tmp_path.name}"]
    assert (tmp_path / "a.set" / "in.ner" / "x.txt").read_text() == "x"
    reaching_disk.clear()
    with files.publishing_folder(tmp_path / "b.set", durable=False) as partial:
        (partial / "x.txt").write_text("x")
    assert reaching_disk == ["rename to b.set", f"sync {tmp_path.name}"]
    assert names(tmp_path) == ["a.set", "b.set"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("at", ["os.replace", "os.fsync"])
def test_what_is_interrupted_leaves_what_was_there_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, at: str
) -> None:
    publish_text(tmp_path / "file", "one")
    publish_text(tmp_path / "file", "two")

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(at, broken)
    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind):
        publish_text(tmp_path / "file", "three")
    with pytest.raises(kind), files.publishing_folder(tmp_path / "folder") as partial:
        (partial / "x").write_text("x")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "two"


def test_a_folder_that_holds_something_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with files.publishing_folder(tmp_path / "kept") as partial:  # an empty one may be
        (partial / "x").write_text("first")
    with pytest.raises(OSError, match="not empty"), files.publishing_folder(tmp_path / "kept") as partial:
        (partial / "x").write_text("second")
    assert (tmp_path / "kept" / "x").read_text() == "first"
    assert names(tmp_path) == ["kept"]


def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    """Root would have replaced /dev/null for the whole machine."""
    os.mkfifo(tmp_path / "pipe")
    for write in (publish_text, publish_json):
        with pytest.raises(FileExistsError, match="is a device or a pipe, expected a file"):
            write(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


def test_the_first_of_several_writers_stays(tmp_path: Path) -> None:
    publish_json(tmp_path / "why.json", {"rank": 1}, first=True)
    publish_json(tmp_path / "why.json", {"rank": 2}, first=True)
    assert read_object(tmp_path / "why.json") == {"rank": 1}
    publish_json(tmp_path / "why.json", {"rank": 3})
    assert read_object(tmp_path / "why.json") == {"rank": 3}
    assert names(tmp_path) == ["why.json"]


def test_writers_do_not_share_a_temporary_and_it_ends_as_the_file_does(tmp_path: Path) -> None:
    with files.publishing(tmp_path / "a.pt2") as one, files.publishing(tmp_path / "a.pt2") as other:
        assert one != other
        assert {one.suffix, other.suffix} == {".pt2"}
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a.pt2").read_text() == "one"  # the outer block ends last


def test_leftovers_go_by_name_or_all(tmp_path: Path) -> None:
    others = [".partial.00000002.a1", ".partial.00000003.my-a[1]", ".partial.00000004.x.a[1]"]
    for name in (*others, ".partial.00000001.a[1]"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    (tmp_path / ".partial.a[1]").touch()  # as version 0.1 called it
    (tmp_path / "kept").touch()
    files.remove_leftovers(tmp_path, "a[1]")
    assert names(tmp_path) == [*others, "kept"]
    files.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["kept"]


def test_a_leftover_that_another_one_removes_meanwhile_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_: iter([tmp_path / ".partial.00000001.gone"]))
    files.remove_leftovers(tmp_path)


def test_what_a_killed_process_leaves_is_found_again(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        from laconvnet import files
        with files.publishing(Path("it")) as one, files.publishing_folder(Path("folder")) as other:
            one.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=False)
    assert len(names(tmp_path)) == 2
    files.remove_leftovers(tmp_path, "it")
    files.remove_leftovers(tmp_path, "folder")
    assert names(tmp_path) == []


def test_texts_that_no_encoding_has_are_written_and_json_reads_them_back(tmp_path: Path) -> None:
    publish_text(tmp_path / "text", "a\udc80é")
    assert (tmp_path / "text").read_bytes() == b"a\\udc80\xc3\xa9"
    publish_json(tmp_path / "json", {"text": "a\udc80é"})
    assert read_object(tmp_path / "json") == {"text": "a\udc80é"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1', "line 1 column 8"),
        (b'{\n"a": 1,\n}', "line 3 column 1"),
        (b"", "line 1 column 1"),
        (b'{"a": "\xe9"}', "byte 7"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_file_is_reported_with_file_and_position(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "it.json"
    publish_bytes(file, data)
    with pytest.raises(ValueError, match=r"it\.json") as caught:
        read_json(file)
    assert message in str(caught.value)
    assert find_object(file) is None


def test_absent_unreadable_and_no_object_are_told_apart(tmp_path: Path) -> None:
    for absent in (tmp_path / "none.json", tmp_path / "it.json" / "below"):
        assert find_object(absent) is None
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "none.json")
    with pytest.raises(IsADirectoryError):
        find_object(tmp_path)
    publish_json(tmp_path / "it.json", [1])
    assert find_object(tmp_path / "it.json" / "below") is None
    assert read_json(tmp_path / "it.json") == [1]
    with pytest.raises(ValueError, match=r"it\.json: holds a list"):
        read_object(tmp_path / "it.json")
    assert find_object(tmp_path / "it.json") is None
