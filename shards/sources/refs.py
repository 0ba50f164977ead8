"""The refs of a data set in REFER's layout: what is said of which objects, and the faults of refs and sentences.

Of refs under one id the first is kept where all are the same, and none where they differ: nobody can tell which was
meant. A sentence of blanks is lost; its ref, whose object has a box and a mask, stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import Account, Fault
from laconvnet.shards.format.record import Expression
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.faults import EntryFault, entry, lost, sort_out

AnnotationId = int | str


@dataclass(frozen=True, slots=True)
class Ref:
    """A ref: its annotations, none where it speaks of nothing, its sentences, and the faults of others of them."""

    ref_id: int
    image_id: int
    split: str
    ann_ids: tuple[AnnotationId, ...]
    expressions: tuple[Expression, ...]
    faults: tuple[Fault, ...] = ()

    @property
    def takes(self) -> dict[str, int]:
        """What is lost when it is: the sentences that are lost by themselves are not counted again."""
        return {"region": 1, "expression": len(self.expressions), "mask": 1, "box": len(self.ann_ids)}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A ref that cannot be read, as far as it can: its image is None where that is what is wrong."""

    image_id: int | None
    fault: Fault

    @property
    def split(self) -> str:
        """The split, empty where that cannot be read."""
        return self.fault.split


# What a layout has to tell of an entry: raises EntryFault for one that is none, and for a sentence that is none.
CheckRef = Callable[[Any, str], tuple[AnnotationId, ...]]
CheckSentence = Callable[[Any, str], None]


def read(
    path: Path, entries: Iterable[Any], check_ref: CheckRef, check_sentence: CheckSentence
) -> Iterator[Ref | Unreadable]:
    """Each entry of a file as a ref, or as one that cannot be read."""
    for index, given in enumerate(entries):
        where = f"{path}: ref {index}"
        try:
            ann_ids = check_ref(given, where)
        except EntryFault as error:
            yield _unreadable(given, index, error, path)
            continue
        faults: list[Fault] = []
        expressions = _expressions(given, where, check_sentence, faults, path)
        yield Ref(given["ref_id"], given["image_id"], given["split"], ann_ids, tuple(expressions), tuple(faults))


def _unreadable(given: Any, index: int, error: EntryFault, path: Path) -> Unreadable:
    known = given if isinstance(given, dict) else {}
    split, image_id, sentences = (known.get(key) for key in ("split", "image_id", "sentences"))
    takes = {"region": 1, "expression": len(sentences) if isinstance(sentences, list) else 0}
    fault = lost(error, "region", known.get("ref_id", f"ref {index}"), split if type(split) is str else "", path, takes)
    return Unreadable(image_id if type(image_id) is int and fault.split else None, fault)


def _expressions(
    ref: dict[str, Any], where: str, check_sentence: CheckSentence, faults: list[Fault], path: Path
) -> Iterator[Expression]:
    region = str(ref["ref_id"])
    for number, sentence in enumerate(ref["sentences"]):
        known = sentence if isinstance(sentence, dict) else {}
        id = known.get("sent_id", f"sentence {number} of ref_id {region}")
        with entry(faults, "expression", id, ref["split"], path, {"expression": 1}, region):
            check_sentence(sentence, f"{where}, sentence {number}")
            text = reading.text(sentence["sent"], f"{path}: ref_id {region}")
            if not text:
                raise EntryFault("blank", f"{path}: sent_id {sentence['sent_id']} of ref_id {region} has no words")
            yield Expression(str(sentence["sent_id"]), text)


@dataclass(frozen=True, slots=True)
class ChosenRefs:
    """The refs of the chosen splits by image, and the faults of others of the image."""

    by_image: dict[int, list[Ref]]
    faults: dict[int, list[Fault]]

    @property
    def images(self) -> set[int]:
        """The ids of all images that a ref names."""
        return {*self.by_image, *self.faults}


def splits(found: Collection[Ref | Unreadable]) -> set[str]:
    """The splits that refs of a file belong to; raises InputError with the first fault where there is no ref."""
    if not any(isinstance(ref, Ref) for ref in found):
        first = next(ref.fault for ref in found if isinstance(ref, Unreadable))
        raise InputError(f"{first.reason}; nor can any other ref be used: get the original file")
    return {ref.split for ref in found} - {""}


def chosen(refs: Iterable[Ref | Unreadable], splits: Collection[str], path: Path, account: Account) -> ChosenRefs:
    """The refs of these splits, counted as read; raises InputError where none of them can be used."""
    found = ChosenRefs(defaultdict(list), defaultdict(list))
    wanted = [ref for ref in refs if ref.split in splits or not ref.split]
    images: set[tuple[int, str]] = set()
    for ref in wanted:
        if isinstance(ref, Ref):
            sentences = len(ref.expressions) + len(ref.faults)
            account.count(ref.split, **{**ref.takes, "expression": sentences})
        else:
            account.count(ref.split, **dict(ref.fault.takes))
        if ref.image_id is not None:
            images.add((ref.image_id, ref.split))
    for _, split in images:
        account.count(split, picture=1)
    for twin in _of_one_id(wanted, found.faults, path):
        found.by_image[twin.image_id].append(twin)
        if twin.faults:
            found.faults[twin.image_id].extend(twin.faults)
    for ref in wanted:
        if isinstance(ref, Unreadable):
            (account.faults if ref.image_id is None else found.faults[ref.image_id]).append(ref.fault)
    if not found.by_image:
        first = [*account.faults, *(fault for faults in found.faults.values() for fault in faults)][0]
        raise InputError(f"{first.reason}; nor can any other ref be used: get the original file")
    return found


def _of_one_id(refs: Iterable[Ref | Unreadable], faults: dict[int, list[Fault]], path: Path) -> Iterator[Ref]:
    """The refs whose id is theirs alone, and the first of each that is given several times alike."""
    by_id: dict[int, list[Ref]] = defaultdict(list)
    for ref in refs:
        if isinstance(ref, Ref):
            by_id[ref.ref_id].append(ref)
    for twins in by_id.values():
        kept, gone, how = sort_out(twins, _of, _content)
        yield from kept
        for twin in gone:
            error = EntryFault("duplicate id", f"{path}: ref_id {twin.ref_id} occurs twice, {how}")
            # Sentences that are lost with it were lost by themselves before.
            faults[twin.image_id].extend(twin.faults)
            faults[twin.image_id].append(lost(error, "region", twin.ref_id, twin.split, path, twin.takes))


def _of(ref: Ref) -> tuple[Any, ...]:
    return ref.image_id, ref.split, ref.ann_ids, ref.expressions


def _content(ref: Ref) -> str:
    texts = ", ".join(repr(expression.text) for expression in ref.expressions[:2])
    return f"image_id {ref.image_id}, ann_id {list(ref.ann_ids)}, split {ref.split}, {texts}"
