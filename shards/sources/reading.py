"""Reading of original files, shared by all sources: checked paths, streamed JSON, typed fields, compact storage.

The checks of fields raise EntryFault, whose meaning `shards.sources.faults` tells.
"""

from __future__ import annotations

import errno
import json
import reprlib
import tempfile
import zlib
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import ijson

import laconvnet.images
from laconvnet.files import is_unreadable
from laconvnet.progress import Progress
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.record import Box
from laconvnet.shards.sources.faults import EntryFault
from laconvnet.shards.sources.json_limits import JsonLimitError, LimitedJson
from laconvnet.terminal import one_line

T = TypeVar("T")

JPEG_MAX_SIDE = 65535
_END = object()
_STORE_BYTES = 32 * 2**20  # of a store, in memory
_LENGTH_BYTES = 8  # of a length in the file of a store
_TOLD = 80  # characters of what a parser says
# What is said where no file of that name is, or can be.
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)


def need_folder(path: Path, advice: str) -> Path:
    """The path if it is a folder, else an InputError that names it and gives the advice."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; {advice}")
    return path


def image_folder(path: Path, advice: str, with_images: bool) -> Path:
    """`need_folder` of the images; the path unseen where none is looked for."""
    return need_folder(path, advice) if with_images else path


def need_file(path: Path, advice: str) -> Path:
    """The path if it is a file, else an InputError that names it and gives the advice."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {advice}")
    return path


def inside(folder: Path, name: str, where: str) -> Path:
    """The path of a file that annotations name, which has to stay in its folder: no '..', nothing absolute."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        told = f"file name {reprlib.repr(name)} leaves its folder"
        raise InputError(f"{where}: {told}; expected a path below {folder}, with / between its parts")
    return folder.joinpath(*parts)


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, Progress]]:
    """The file, and a progress bar over its bytes, which is shown where reading takes long."""
    with (
        open(path, "rb") as file,
        Progress(
            total=path.stat().st_size,
            desc=f"reading {one_line(path.name)}",
            unit="B",
            unit_scale=True,
            delay=1,
            leave=False,
        ) as bar,
    ):
        yield file, bar


def read_items(path: Path, prefix: str = "item", needed: bool = True) -> Iterator[dict[str, Any]]:
    """The objects of one array in a JSON file, one after another, without holding the file in memory.

    ``prefix`` is ijson's: "item" for a file that is an array, "images.item" for the array under a key. Raises
    InputError for broken JSON and JSON beyond `json_limits`, for an element that is no object, and, where it is
    ``needed``, for an array that is missing or empty.
    """
    count = 0
    with opened(path) as (file, bar):
        items = ijson.items(LimitedJson(file, prefix.count(".") + 1), prefix, use_float=True)
        while True:
            with _parsing(path):
                item = next(items, _END)
            if item is _END:
                break
            if not isinstance(item, dict):
                raise InputError(f"{path}: {prefix} {count} is {reprlib.repr(item)}, expected an object")
            yield item
            count += 1
            bar.update(file.tell() - bar.n)
    if needed and not count:
        layout = "an array" if prefix == "item" else f"an array under {prefix.removesuffix('.item')!r}"
        raise InputError(f"{path}: holds no entries; expected {layout} of objects")


def field(entry: dict[str, Any], where: str, kind: type[T], *keys: str) -> T:
    """The value under the first of the keys that is there (layouts differ in names), which has to be of the kind."""
    for key in keys:
        if key in entry:
            value = entry[key]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise EntryFault("field", f"{where}: key {key!r} is {reprlib.repr(value)}, expected {kind.__name__}")
            if isinstance(value, int) and not -(2**63) <= value < 2**63:  # tables and JSON of others hold no more
                raise EntryFault(
                    "field", f"{where}: key {key!r} has {value.bit_length()} bits, expected a number of 64"
                )
            return value
    raise EntryFault("field", f"{where}: key {' or '.join(map(repr, keys))} is missing")


def objects(entry: dict[str, Any], where: str, key: str) -> list[dict[str, Any]]:
    """The list of objects under a key."""
    found: list[Any] = field(entry, where, list, key)
    for index, item in enumerate(found):
        if not isinstance(item, dict):
            raise EntryFault(
                "field", f"{where}: key {key!r}, element {index} is {reprlib.repr(item)}, expected an object"
            )
    return found


def side(entry: dict[str, Any], where: str, key: str) -> int:
    """The width or height of an image, bounded by what a JPEG can hold."""
    value = field(entry, where, int, key)
    if not 1 <= value <= JPEG_MAX_SIDE:
        raise EntryFault("size", f"{where}: key {key!r} is {value}, expected 1 to {JPEG_MAX_SIDE} pixels")
    return value


def box(values: list[Any], where: str) -> Box:
    """Four finite numbers as a box x, y, w, h; it may overhang the image, the builder clips it."""
    if len(values) != 4 or not all(is_number(value) for value in values):
        raise EntryFault("box", f"{where}: box {reprlib.repr(values)}, expected four finite numbers x, y, w, h")
    x, y, w, h = map(float, values)
    return (x, y, w, h)


def is_number(value: object) -> bool:
    """A number that is no bool, finite and small enough for pixel arithmetic."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height by the head of an image file; None where it is no image, which the builder will tell.

    Raises OSError where it is there and cannot be read.
    """
    try:
        with laconvnet.images.opened(laconvnet.images.read_bytes(path)) as image:
            return image.size
    except Exception as error:  # decoders raise nearly anything on malformed bytes
        if isinstance(error, OSError) and is_unreadable(error) and error.errno not in NO_FILE:
            raise
        return None


def text(value: str, where: str) -> str:
    """A phrase with its white space made single blanks; a record is UTF-8, so lone surrogates are refused."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise EntryFault("text", f"{where}: text {reprlib.repr(value)} is no valid Unicode ({error.reason})") from error
    return " ".join(value.split())


def phrase(entry: dict[str, Any], where: str, key: str) -> str:
    """The `text` under a key, which has to have words."""
    found = text(field(entry, where, str, key), where)
    if not found:
        raise EntryFault("blank", f"{where}: key {key!r} is empty; get the file again")
    return found


def top_keys(path: Path) -> list[str]:
    """The keys of the object that a JSON file is, in order. Raises InputError as `read_items`, and for no object."""
    keys: list[str] = []
    with opened(path) as (file, bar):
        events = ijson.parse(LimitedJson(file, 2), use_float=True)
        with _parsing(path):
            for number, (prefix, event, value) in enumerate(events):
                if not number and event != "start_map":
                    raise InputError(f"{path}: begins with {event}, expected an object")
                if event == "map_key" and not prefix:
                    keys.append(value)
                bar.update(file.tell() - bar.n)
    return keys


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """An InputError for what the parser raises."""
    try:
        yield
    except JsonLimitError as error:
        raise InputError(f"{path}: refused JSON: {error}, no annotation is; get the file again") from error
    except InputError:
        raise
    except (ijson.JSONError, ValueError, OverflowError) as error:
        told = str(error).partition("\n")[0][:_TOLD]  # of several lines, the others point at a place in the first
        raise InputError(f"{path}: broken JSON ({told!r}); get the file again") from error


class CompressedStore:
    """Lists of JSON values by key, kept deflated: a gigabyte of annotations takes some 100 MB.

    What is more than 32 MB is in a temporary file (in TMPDIR), which goes with the store.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_STORE_BYTES)  # noqa: SIM115 - it lives as long as the store
        self._end = 0
        self._places: dict[Hashable, list[int]] = {}

    def add(self, key: Hashable, values: list[Any]) -> None:
        """Put the values behind those that the key has. Raises EntryFault for values nested beyond all reason."""
        try:
            packed = zlib.compress(json.dumps(values).encode(), 1)
        except RecursionError as error:
            raise EntryFault("field", f"entry of {key!r} is nested too deeply; get the file again") from error
        if self._file.tell() != self._end:  # a seek writes out what is buffered
            self._file.seek(self._end)
        self._places.setdefault(key, []).append(self._end)
        self._end += self._file.write(len(packed).to_bytes(_LENGTH_BYTES, "big") + packed)

    def get(self, key: Hashable) -> list[Any]:
        """All values of the key, in the order they came; none for an unknown key."""
        return [
            value for place in self._places.get(key, []) for value in json.loads(zlib.decompress(self._read(place)))
        ]

    def _read(self, place: int) -> bytes:
        self._file.seek(place)
        return self._file.read(int.from_bytes(self._file.read(_LENGTH_BYTES), "big"))

    def replace(self, key: Hashable, values: list[Any]) -> None:
        """Put the values in place of those that the key has; without any the key goes."""
        self._places.pop(key, None)
        if values:
            self.add(key, values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
