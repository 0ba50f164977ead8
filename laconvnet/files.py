"""Files and folders that are there whole or not at all, and JSON whose faults can be told apart.

A file that is read is absent (FileNotFoundError), damaged (ValueError), or it cannot be read (any other OSError). The
last says nothing about the file: it is tried again for a while, and never taken for one of the other two.

What is published is written under a temporary name in the same folder, synced to the disk and renamed; then the folder
that holds it is synced. A kill or a power failure leaves what was there or the whole new thing, and at most a
temporary, which `remove_leftovers` clears. This module knows the standard library only.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")

_MARK = ".partial."
# What storage says while a server is gone, a handle is stale or a device stutters; the next attempt may succeed.
_PASSING = frozenset((errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.EREMOTEIO))
_PAUSES_SECONDS = (0.1, 0.5, 2.0)  # before each further attempt


def retried(path: Path, read: Callable[[], T]) -> T:
    """What ``read`` returns, which only reads ``path``: an error of the storage that may pass is waited out.

    Raises the last OSError, naming the file, where it does not pass; one that says that there is no such file, or that
    it may not be read, at once.
    """
    for pause in _PAUSES_SECONDS:
        try:
            with naming(path):
                return read()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
        time.sleep(pause)
    with naming(path):
        return read()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within, an OSError that names no file (of a write, a sync) names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def read_bytes(file: Path) -> bytes:
    """All bytes of a file. Raises OSError as `retried`."""
    return retried(file, file.read_bytes)


def pread(descriptor: int, file: Path, length: int, offset: int) -> bytes:
    """So many bytes of an open ``file`` from an offset, fewer where it ends before.

    Raises OSError as `retried`; each further attempt opens the file again, for a handle may have grown stale.
    """
    try:
        return _pread(descriptor, length, offset)
    except OSError as error:
        if error.errno not in _PASSING:
            raise

    def again() -> bytes:
        with file.open("rb") as stream:
            return _pread(stream.fileno(), length, offset)

    return retried(file, again)


def _pread(descriptor: int, length: int, offset: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while 0 < len(data) < length:  # a server may answer with less than it was asked for
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def is_unreadable(error: BaseException) -> bool:
    """Whether this is said of a file that is there and cannot be read; Arrow says OSError of damaged bytes, too."""
    absent = isinstance(error, (FileNotFoundError, NotADirectoryError))
    return isinstance(error, OSError) and error.errno is not None and not absent


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where it is absent. Raises OSError, naming the folder, as `retried`."""
    try:
        return sorted(retried(folder, lambda: os.listdir(folder)))
    except (FileNotFoundError, NotADirectoryError):
        return []


def appending(file: Path) -> IO[str]:
    """The file, opened to add lines to it; a last line that a kill has left torn does not swallow the next one."""
    with naming(file):
        stream = file.open("a+b")
        if size := stream.seek(0, os.SEEK_END):
            stream.seek(size - 1)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.close()
        return file.open("a", encoding="utf-8")


@contextmanager
def publishing(file: Path, first: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside ``file``; what was written there becomes ``file``, or goes if the block raises.

    With ``first`` a file that exists already stays, also one that another process publishes meanwhile. What is neither
    file nor folder there, such as /dev/null, would be replaced as well: FileExistsError.
    """
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise FileExistsError(errno.EEXIST, "is a device or a pipe, expected a file", str(file))
    partial = _beside(file)
    try:
        with naming(file):
            yield partial
        sync(partial)  # or the name might outlive a power failure that the bytes did not
        if first:
            with suppress(FileExistsError):
                os.link(partial, file)
        else:
            os.replace(partial, file)
        sync(file.parent)
    finally:
        partial.unlink(missing_ok=True)


def publish_bytes(file: Path, data: bytes) -> None:
    """Write ``data`` as ``file``, all or nothing."""
    with publishing(file) as partial:
        partial.write_bytes(data)


def publish_text(file: Path, text: str) -> None:
    """Write ``text`` as ``file`` in UTF-8, all or nothing."""
    # File names and texts of data sets may hold code points that no encoding has.
    publish_bytes(file, text.encode("utf-8", "backslashreplace"))


def publish_json(file: Path, value: object, first: bool = False) -> None:
    """Write ``value`` as a JSON ``file``, all or nothing; with ``first`` a file that exists already stays."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    with publishing(file, first) as partial:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))


@contextmanager
def publishing_folder(folder: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a new folder beside ``folder`` that takes its name when the block ends well, and goes when it does not.

    An empty folder of that name is replaced; one that holds anything is not: OSError. Without ``durable`` nothing
    inside is synced, for folders of very many files that can be made again.
    """
    partial = _beside(folder)
    try:
        partial.mkdir()
        with naming(folder):
            yield partial
        if durable:
            sync_tree(partial)
        os.replace(partial, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_leftovers(folder: Path, name: str | None = None, older: float = 0.0) -> None:
    """Remove what killed writers left in ``folder``, of one file or folder by its name, or of all.

    Only where no other writer of these can be at work, or can have been for ``older`` seconds.
    """
    # Version 0.1 wrote the file NAME as .partial.NAME.
    patterns = (f"{_MARK}{'?' * 8}.{glob.escape(name)}", f"{_MARK}{glob.escape(name)}") if name else (f"{_MARK}*",)
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        if older and not _is_older(path, older):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # a file server keeps what is still open; the next call gets it
        else:
            path.unlink(missing_ok=True)


def _is_older(path: Path, seconds: float) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > seconds
    except OSError:  # its writer has just given it its name
        return False


def read_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises FileNotFoundError for an absent file, another OSError for one that cannot be read, see `retried`, and
    ValueError naming the file and the position in it for one that is damaged.
    """
    try:
        return json.loads(read_bytes(file).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start}: not UTF-8 ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: line {error.lineno} column {error.colno}: not JSON ({error.msg})") from error
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(f"{file}: not JSON that can be read ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{file}: not JSON that can be read: it is nested too deeply") from error


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises what `read_json` does, and ValueError for a value that is no object."""
    value = read_json(file)
    if not isinstance(value, dict):
        raise ValueError(f"{file}: holds a {type(value).__name__}, expected a JSON object")
    return value


def find_object(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where the file is absent or damaged. Raises OSError where it cannot be read."""
    try:
        return read_object(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _beside(path: Path) -> Path:
    """A name of its own for every writer, which ends as the final one does: some writers look at the ending."""
    return path.with_name(f"{_MARK}{secrets.token_hex(4)}.{path.name}")


def sync_tree(folder: Path) -> None:
    """Bring a folder and all that is in it to the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
