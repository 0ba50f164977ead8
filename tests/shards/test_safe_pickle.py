"""Refs pickles are data: whatever else they ask for is refused, and nothing of it runs."""

from __future__ import annotations

import copyreg
import os
import pickle
import pickletools
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from laconvnet.shards.errors import InputError
from laconvnet.shards.sources import safe_pickle
from laconvnet.shards.sources.faults import EntryFault
from laconvnet.shards.sources.safe_pickle import check_ref, check_sentence, load_data, load_refs
from tests.samples import SAMPLES, needs

DATA = SAMPLES / "refer"
REF = {
    "ref_id": 1,
    "ann_id": 2,
    "image_id": 3,
    "category_id": 4,
    "split": "train",
    "file_name": "x.jpg",
    "sent_ids": [5],
    "sentences": [{"sent_id": 5, "sent": "left vase", "raw": "Left vase", "tokens": ["left", "vase"]}],
}


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class _Runs:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_refs_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = _write(tmp_path / "refs(unc).p", pickle.dumps([REF, {**REF, "ref_id": 7}], protocol))
    assert load_refs(path) == [REF, {**REF, "ref_id": 7}]


def test_numbers_none_and_tuples_are_data(tmp_path: Path) -> None:
    value = {
        "a": [1.5, -3, 2**40, 2**62, None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, "4")],
        "b": "é" * 300,
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert load_data(_write(tmp_path / "data.p", pickle.dumps(value, protocol))) == value


def test_byte_strings_of_python_2_are_read_as_utf8(tmp_path: Path) -> None:
    assert load_data(_write(tmp_path / "text.p", b"S'caf\\xc3\\xa9'\n.")) == "café"
    assert load_data(_write(tmp_path / "binary.p", b"\x80\x02U\x05caf\xc3\xa9.")) == "café"


def _attacks(mark: Path) -> dict[str, bytes]:
    command = f"touch {mark}"
    nested = [REF, {"deep": [{"er": _Runs(os.system, command)}]}]
    return {
        "os.system": pickle.dumps(_Runs(os.system, command)),
        "os.system text": pickle.dumps(_Runs(os.system, command), 0),
        "eval": pickle.dumps(_Runs(eval, f"open({str(mark)!r}, 'w')")),
        "nested reduce": pickle.dumps(nested, 2),
        "call of a call": pickle.dumps(_Runs(getattr, _Runs(os.getenv, "HOME"), "upper")),
        "inst": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'" + command.encode() + b"'\no.",
        "newobj": pickle.dumps(Path("x"), 2),
    }


@pytest.mark.parametrize("attack", sorted(_attacks(Path("x"))))
def test_a_global_is_refused_by_name_and_nothing_runs(tmp_path: Path, attack: str) -> None:
    mark = tmp_path / "it-ran"
    path = _write(tmp_path / "refs(unc).p", _attacks(mark)[attack])
    with pytest.raises(InputError, match=r"refs\(unc\)\.p: refused, it asks for the global [\w.]+; ") as caught:
        load_refs(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_the_message_names_the_global(tmp_path: Path) -> None:
    path = _write(tmp_path / "refs(unc).p", pickle.dumps(_Runs(os.system, "true")))
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: refused, .*global {os.system.__module__}\\."):
        load_refs(path)


@pytest.mark.parametrize("code", [b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"])
def test_registered_extensions_are_refused(tmp_path: Path, code: bytes) -> None:
    mark = tmp_path / "it-ran"
    call = b"\x80\x02" + code + b"U" + bytes([len(f"touch {mark}")]) + f"touch {mark}".encode() + b"\x85R."
    copyreg.add_extension("os", "system", 0xF0)
    try:
        # A cached extension never asks find_class: the opcode itself has to be refused.
        copyreg._extension_cache[0xF0] = os.system  # type: ignore[attr-defined]
        with pytest.raises(InputError, match=r"refused, it uses the pickle opcode EXT\d"):
            load_data(_write(tmp_path / "ext.p", call))
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
        copyreg._extension_cache.pop(0xF0, None)  # type: ignore[attr-defined]
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"Psome id\n.", "PERSID"),
        (b"U\x07some idQ.", "BINPERSID"),
        (b"(lU\x01ab.", "BUILD"),
        (b"U\x01aU\x01bR.", "REDUCE"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b".", "BYTEARRAY8"),
        (b"\x80\x04\x8f.", "EMPTY_SET"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"]2.", "DUP"),
    ],
)
def test_other_opcodes_are_refused_by_name(tmp_path: Path, content: bytes, name: str) -> None:
    with pytest.raises(InputError, match=f"refused, it uses the pickle opcode {name};"):
        load_data(_write(tmp_path / "refs(unc).p", content))


def test_every_opcode_is_either_data_or_refused() -> None:
    unknown = safe_pickle._DATA - {opcode.name for opcode in pickletools.opcodes}
    assert not unknown
    assert set(safe_pickle._DataUnpickler.dispatch) == {ord(opcode.code) for opcode in pickletools.opcodes}


def test_the_memo_of_a_hostile_index_takes_one_entry(tmp_path: Path) -> None:
    # The C unpickler would allocate an array up to that index.
    assert load_data(_write(tmp_path / "put.p", b"]r" + struct.pack("<I", 2**32 - 1) + b".")) == []
    assert load_data(_write(tmp_path / "put.p", b"]p4000000000000\n.")) == []


def test_dict_keys_are_strings(tmp_path: Path) -> None:
    # Hashing a tuple this deep would end the process.
    deep = b"\x80\x02}K\x01" + b"\x85" * 500_000
    for content in (deep + b"K\x01s.", deep.replace(b"}", b"}(") + b"K\x01u.", b"(K\x01K\x02d."):
        with pytest.raises(InputError, match=r"refused, it has a dict key of type (tuple|int)"):
            load_data(_write(tmp_path / "refs(unc).p", content))


@pytest.mark.parametrize("content", [b"I0x" + b"f" * 100_000 + b"\n.", b"L0x" + b"f" * 100_000 + b"L\n."])
def test_huge_integers_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="an integer of more than 64 bits"):
        load_data(_write(tmp_path / "refs(unc).p", content))


@pytest.mark.parametrize("nesting", [b"]" * 200_000 + b"a" * 199_999, b"K\x01" + b"\x85" * 200_000])
def test_deep_nesting_neither_crashes_nor_passes(tmp_path: Path, nesting: bytes) -> None:
    path = _write(tmp_path / "refs(unc).p", b"\x80\x02" + nesting + b".")
    with pytest.raises(InputError, match=r"refs\(unc\)\.p: "):
        load_refs(path)


def test_a_list_meant_over_and_over_is_refused(tmp_path: Path) -> None:
    shared = REF["sentences"] * 1000  # type: ignore[operator]
    refs = [{**REF, "ref_id": index, "sentences": shared} for index in range(200)]
    path = _write(tmp_path / "refs(unc).p", pickle.dumps(refs, 2))
    assert path.stat().st_size < 200 * 1000
    with pytest.raises(InputError, match="key 'sentences' repeats one list"):
        load_refs(path)


@pytest.mark.parametrize("length", [0, 1, 7, 100, -1])
def test_a_truncated_pickle_says_so(tmp_path: Path, length: int) -> None:
    whole = pickle.dumps([REF], 0)
    with pytest.raises(InputError, match=r"refs\(unc\)\.p: the pickle ends early; the file is truncated"):
        load_refs(_write(tmp_path / "refs(unc).p", whole[:length]))


@pytest.mark.parametrize(
    "content", [b"<html>404</html>", b"\xff" * 64, b"a.", b"K\x01K\x02a.", b"h\x07.", b"Inope\n.", b"s."]
)
def test_garbage_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"refs\(unc\)\.p: "):
        load_refs(_write(tmp_path / "refs(unc).p", content))


def test_size_is_bounded_and_absence_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "refs(unc).p", pickle.dumps([REF]))
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", path.stat().st_size)
    assert load_refs(path) == [REF]
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match=f"{path.stat().st_size} bytes, .* {path.stat().st_size - 1}"):
        load_refs(path)
    with pytest.raises(InputError, match=r"absent\.p: no such file"):
        load_refs(tmp_path / "absent.p")


@pytest.mark.parametrize(
    "making", [b"}", b"]", b"(", b"(l", b"(d", b"(t", b")", b"q\x00", b"N\x94", b"p1\n", b"r\0\0\0\0"]
)
def test_what_is_made_of_few_bytes_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, making: bytes) -> None:
    monkeypatch.setattr(safe_pickle, "MAX_OBJECTS", 1000)
    path = _write(tmp_path / "refs(unc).p", b"\x80\x02N" + making * 1001 + b".")
    with pytest.raises(InputError, match=r"refs\(unc\)\.p: .*more than 1,000 containers and memo entries"):
        load_data(path)


def test_opcodes_are_counted_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "refs(unc).p", pickle.dumps([REF], 2))
    opcodes = list(pickletools.genops(path.read_bytes()))
    monkeypatch.setattr(safe_pickle, "MAX_OPCODES", len(opcodes))
    assert load_refs(path) == [REF]
    monkeypatch.setattr(safe_pickle, "MAX_OPCODES", len(opcodes) - 1)
    with pytest.raises(InputError, match=rf"refs\(unc\)\.p: .*more than {len(opcodes) - 1} opcodes"):
        load_refs(path)


def test_the_largest_originals_stay_far_below_the_limits(tmp_path: Path) -> None:
    words = [{**REF["sentences"][0], "sent_id": 7, "tokens": [f"word{n}" for n in range(4)]} for n in range(3)]  # type: ignore[index]
    ref = pickle.dumps({**REF, "sentences": words}, 0)
    codes = [opcode.name for opcode, *_ in pickletools.genops(ref)]
    assert 50_000 * len(codes) < safe_pickle.MAX_OPCODES
    assert 50_000 * sum(name in safe_pickle._KEPT for name in codes) < safe_pickle.MAX_OBJECTS


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        ({}, r"holds \{\}, expected a list of refs"),
        ([], r"holds \[\], expected a list of refs"),
        ([3], "ref 0: is 3, expected a dict"),
    ],
)
def test_another_shape_is_refused(tmp_path: Path, refs: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"refs\(unc\)\.p: {message}"):
        load_refs(_write(tmp_path / "refs(unc).p", pickle.dumps(refs)))


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (3, "is 3, expected a dict"),
        ({key: REF[key] for key in REF if key != "ann_id"}, "key 'ann_id' is missing"),
        ({**REF, "ref_id": "1"}, "key 'ref_id' is '1', expected int"),
        ({**REF, "ref_id": True}, "key 'ref_id' is True, expected int"),
        ({**REF, "split": None}, "key 'split' is None, expected str"),
        ({**REF, "sentences": {}}, r"key 'sentences' is \{\}, expected list"),
    ],
)
def test_another_shape_of_a_ref_names_the_key(ref: Any, message: str) -> None:
    with pytest.raises(EntryFault, match=f"ref 7: {message}"):
        check_ref(ref, "ref 7")
    check_ref(REF, "ref 7")


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("left", "is 'left', expected a dict"),
        ({"sent_id": 5}, "key 'sent' is missing"),
        ({"sent_id": 5, "sent": 6}, "key 'sent' is 6, expected str"),
    ],
)
def test_another_shape_of_a_sentence_names_the_key(sentence: Any, message: str) -> None:
    with pytest.raises(EntryFault, match=f"ref 7: {message}"):
        check_sentence(sentence, "ref 7")


@needs(DATA)
def test_the_real_files_read_as_the_pickle_module_reads_them() -> None:
    paths = sorted(DATA.glob("*/refs(*).p"))
    assert len(paths) == 5
    for path in paths:
        assert load_refs(path) == pickle.loads(path.read_bytes())  # noqa: S301 - our own samples, for comparison
