"""Questions by image while their files are read: every one is counted, and kept or lost by a fault of its own.

Of questions under one id the first is kept where all are alike, and none where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import Account, Fault, Named
from laconvnet.shards.sources.faults import EntryFault, lost
from laconvnet.shards.sources.reading import CompressedStore

Image = str | int
Id = str | int


@dataclass(slots=True)
class Asked:
    """A question while it is read; ``image`` is told as soon as it is known."""

    path: Path
    image: Image | None = None


class QuestionStore:
    """The questions of one folder of images; a value is a list of split, id and what else the source wants of it.

    Call `finish` after each file. ``key_of`` gives the key of an image's sample, ``named_of`` its names, ``kinds`` what
    the ledger counts of an entry: the first is what it is called.
    """

    def __init__(
        self,
        account: Account,
        key_of: Callable[[Image], str],
        named_of: Callable[[Image], Named],
        kinds: tuple[str, ...] = ("question",),
    ) -> None:
        self._account, self._key_of, self._named_of, self._kinds = account, key_of, named_of, kinds
        self._store = CompressedStore()
        self._held: list[Any] = []
        self._image: Image | None = None
        self._begin_file()

    def _begin_file(self) -> None:
        self._image_of: dict[Id, Image] = {}
        self._first_fault: dict[Image, Fault] = {}
        self._faults: list[Fault] = []
        self._dropped: dict[Id, EntryFault] = {}
        self._lost: set[Id] = set()

    @contextmanager
    def reading(self, path: Path, split: str, id: object) -> Iterator[Asked]:
        """Read one question inside, and `keep` it: an EntryFault is its loss, and the rest of the block is skipped."""
        self._account.count(split, **dict.fromkeys(self._kinds, 1))
        asked = Asked(path)
        try:
            yield asked
        except EntryFault as error:
            self._lose(error, id, split, path, asked.image)

    def keep(self, asked: Asked, split: str, id: Id, *values: Any) -> None:
        """Keep a question of the image; raises EntryFault for an id that was there."""
        assert asked.image is not None
        if id in self._image_of:
            self._refuse_twin(asked.path, asked.image, [split, id, *values])
        if asked.image != self._image:
            self._flush()
            self._image = asked.image
        self._image_of[id] = self._image
        self._held.append([split, id, *values])

    def drop(self, id: Id, error: EntryFault) -> None:
        """Lose a question that was kept; only the first fault of one counts."""
        self._dropped.setdefault(id, error)

    def was_lost(self, id: object) -> bool:
        """Whether a question of this file with that id was lost when it was read."""
        return isinstance(id, str | int) and id in self._lost

    def asked_of(self, id: object) -> Image | None:
        """The image of a question of this file that was kept; None for another id."""
        return self._image_of.get(id) if isinstance(id, str | int) else None

    @property
    def kept(self) -> Iterator[Id]:
        """The ids of this file that were kept."""
        return iter(self._image_of)

    def finish(self, path: Path, split: str) -> None:
        """End a file: count its images. Raises InputError as `need_some`."""
        self._flush()
        for image in {self._image_of[id] for id in self._dropped}:
            found = self._store.get(image)
            gone = [one[1] for one in found if one[0] == split and one[1] in self._dropped]
            self._store.replace(image, [one for one in found if one[0] != split or one[1] not in gone])
            for id in gone:
                self._lose(self._dropped[id], id, split, path, image)
        self.need_some()
        images = {image for id, image in self._image_of.items() if id not in self._dropped}
        for image in self._first_fault.keys() - images:
            first = self._first_fault[image]
            error = EntryFault(first.cause, f"nothing of it is left in {split}: {first.reason}")
            names = self._key_of(image), self._named_of(image)
            self._faults.append(lost(error, "picture", image, split, path, {"picture": 1}, None, *names))
        self._account.count(split, picture=len(images | self._first_fault.keys()))
        self._account.faults += self._faults
        self._begin_file()

    def need_some(self) -> None:
        """Raise InputError with the first fault where no question of this file can be used."""
        if self._faults and self._image_of.keys() <= self._dropped.keys():
            raise InputError(f"{self._faults[0].reason}; nor can any other entry of the file be used: get it again")

    def get(self, image: Image) -> list[Any]:
        """The values of an image, in the order they came."""
        return self._store.get(image)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._store)

    def __len__(self) -> int:
        return len(self._store)

    def _flush(self) -> None:
        if self._held:
            self._store.add(self._image, self._held)
            self._held = []

    def _lose(self, error: EntryFault, id: object, split: str, path: Path, image: Image | None) -> None:
        key = "" if image is None else self._key_of(image)
        fault = lost(error, self._kinds[0], id, split, path, dict.fromkeys(self._kinds, 1), key=key)
        self._faults.append(fault)
        if isinstance(id, str | int):
            self._lost.add(id)
        if image is not None:
            self._first_fault.setdefault(image, fault)

    def _refuse_twin(self, path: Path, image: Image, values: list[Any]) -> None:
        split, id, what, *_ = values
        where = f"{path}: {self._kinds[0]} {id}"
        self._flush()
        first_image = self._image_of[id]
        first = next(one for one in self._store.get(first_image) if one[:2] == [split, id])
        if (first_image, first) == (image, values):
            raise EntryFault("duplicate id", f"{where} occurs twice, alike")
        told = f"{first[2]!r} of image {first_image} and {what!r} of image {image}"
        error = EntryFault("duplicate id", f"{where} occurs twice, with other contents: {told}")
        self.drop(id, error)
        raise error
