"""The pickles of the REFER tool, read as data: nothing in the file can run, and what it can build is bounded.

The ``refs(<partition>).p`` files are Python 2 pickles of lists, dicts, strings and numbers that come from the web. A
pickle is a program for a stack machine, so its opcodes are let in by name and all others refused: no global, no call,
no persistent id, no registered extension. The standard library's Python machine is used instead of its C one because
its table of opcodes can be narrowed and because it keeps the memo in a dict: a hostile ``PUT 4000000000`` is one entry
there and 64 GB in C.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import reprlib
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from laconvnet.shards.errors import InputError
from laconvnet.shards.sources.faults import EntryFault

# Each is twice what the largest originals have. Of RefCOCO's 142,210 and RefCOCOg's 95,010 sentences protocol 0 makes
# 34 MB of 6.5 M opcodes, 0.9 M of which make a container and 1.4 M a memo entry.
MAX_BYTES = 64 * 2**20
MAX_OPCODES = 13_000_000  # time: a microsecond or two each
MAX_OBJECTS = 5_000_000  # memory: an empty dict of one byte takes 72, a memo entry some hundred

# fmt: off
_DATA = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
    "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE",
))
# fmt: on
# These three end in find_class, which knows the name to print and refuses it.
_GLOBALS = frozenset(("GLOBAL", "STACK_GLOBAL", "INST"))
_INTEGERS = frozenset(("INT", "LONG", "LONG1"))
# What a file can ask for by a byte or two and takes memory for itself: containers, and what is kept for later.
_KEPT = frozenset((
    "MARK", "EMPTY_LIST", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT",
    "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE",
))  # fmt: skip
_KEYS = {"SETITEM": slice(-2, -1), "SETITEMS": slice(None, None, 2), "DICT": slice(None, None, 2)}

_Step = Callable[[Any], None]


class _Refused(Exception):
    """The pickle asks for something that is refused."""


def _refuse(name: str) -> _Step:
    def step(machine: Any) -> None:
        raise _Refused(f"uses the pickle opcode {name}")

    return step


def _with_string_keys(step: _Step, keys: slice) -> _Step:
    # Hashing a deeply nested tuple overflows the C stack, and integers can be chosen to collide: strings do neither.
    def checked(machine: Any) -> None:
        for key in machine.stack[keys]:
            if type(key) is not str:
                raise _Refused(f"has a dict key of type {type(key).__name__}")
        step(machine)

    return checked


def _with_small_value(step: _Step) -> _Step:
    # An integer of megabytes can be written in hexadecimal, and printing it in decimal takes the square of its length.
    def checked(machine: Any) -> None:
        step(machine)
        if machine.stack[-1].bit_length() > 64:
            raise _Refused("has an integer of more than 64 bits")

    return checked


def _steps() -> dict[int, _Step]:
    steps: dict[int, _Step] = {}
    for opcode in pickletools.opcodes:
        code = ord(opcode.code)
        step: _Step = pickle._Unpickler.dispatch[code]
        if opcode.name in _KEYS:
            step = _with_string_keys(step, _KEYS[opcode.name])
        elif opcode.name in _INTEGERS:
            step = _with_small_value(step)
        elif opcode.name not in _DATA | _GLOBALS:
            step = _refuse(opcode.name)
        steps[code] = step
    return steps


class _CountedSteps:
    """The table of steps for one file, which ends where it has asked for more of them than any original."""

    _steps = _steps()
    _kept = frozenset(ord(opcode.code) for opcode in pickletools.opcodes if opcode.name in _KEPT)

    def __init__(self) -> None:
        self._opcodes, self._objects = MAX_OPCODES, MAX_OBJECTS

    def __getitem__(self, code: int) -> _Step:
        self._opcodes -= 1
        self._objects -= code in self._kept
        if self._opcodes < 0:
            raise _Refused(f"has more than {MAX_OPCODES:,} opcodes")
        if self._objects < 0:
            raise _Refused(f"makes more than {MAX_OBJECTS:,} containers and memo entries")
        return self._steps[code]


class _DataUnpickler(pickle._Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        # A table of the class there; here it counts for one file.
        self.dispatch = _CountedSteps()  # type: ignore[misc, assignment]

    def find_class(self, module: str, name: str) -> Any:
        raise _Refused(f"asks for the global {module}.{name}")


def load_data(path: Path) -> Any:
    """The lists, tuples, dicts, strings and numbers of a pickle; strings of Python 2 are read as UTF-8.

    Raises InputError for a file that is missing, beyond the limits above, truncated or no pickle, and for one that
    holds anything else: the message names the limit, the global or the opcode, and nothing of it has run.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path}: {size} bytes, more than the {MAX_BYTES} a refs pickle may have; get the original")
    machine = _DataUnpickler(io.BytesIO(path.read_bytes()))
    try:
        return machine.load()
    except _Refused as error:
        raise InputError(
            f"{path}: refused, it {error}; expected only lists, dicts, strings and numbers; get the original file"
        ) from None
    except EOFError as error:
        raise InputError(f"{path}: the pickle ends early; the file is truncated, get it again") from error
    except (
        pickle.UnpicklingError, struct.error, ValueError, OverflowError, LookupError, TypeError, AttributeError,
    ) as error:  # fmt: skip
        raise InputError(f"{path}: not a readable pickle ({reprlib.repr(str(error))}); get the file again") from error


# ReferIt knows some annotations by name.
_REF_KEYS = {"ref_id": (int,), "ann_id": (int, str), "image_id": (int,), "split": (str,), "sentences": (list,)}
_SENTENCE_KEYS = {"sent_id": (int,), "sent": (str,)}


def load_refs(path: Path) -> list[Any]:
    """The refs of a REFER partition file, each of which `check_ref` and `check_sentence` then have to look at.

    Raises InputError as `load_data` does, and for a file that is no list of dicts.
    """
    refs = load_data(path)
    if type(refs) is not list or not refs:
        raise InputError(f"{path}: holds {reprlib.repr(refs)}, expected a list of refs")
    if not any(type(ref) is dict for ref in refs):
        raise InputError(f"{path}: ref 0: is {reprlib.repr(refs[0])}, expected a dict")
    # One list can be memoized and meant a million times over; honest sentences take more than a byte each.
    budget = path.stat().st_size
    for index, ref in enumerate(refs):
        sentences = ref.get("sentences") if type(ref) is dict else None
        budget -= len(sentences) if type(sentences) is list else 0
        if budget < 0:
            raise InputError(f"{path}: ref {index}: key 'sentences' repeats one list over and over; get the original")
    return refs


def check_ref(ref: Any, where: str) -> None:
    """Raise EntryFault unless it has ref_id, ann_id, image_id, split and sentences: key, value and type expected."""
    _check(ref, _REF_KEYS, where)


def check_sentence(sentence: Any, where: str) -> None:
    """Raise EntryFault unless it has sent_id and sent, as `check_ref`."""
    _check(sentence, _SENTENCE_KEYS, where)


def _check(entry: Any, keys: Mapping[str, tuple[type, ...]], where: str) -> None:
    if type(entry) is not dict:
        raise EntryFault("field", f"{where}: is {reprlib.repr(entry)}, expected a dict")
    for key, kinds in keys.items():
        if key not in entry:
            raise EntryFault("field", f"{where}: key {key!r} is missing; expected {', '.join(keys)}")
        if type(entry[key]) not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise EntryFault("field", f"{where}: key {key!r} is {reprlib.repr(entry[key])}, expected {expected}")
