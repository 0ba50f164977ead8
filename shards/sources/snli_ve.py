"""SNLI-VE (Xie et al. 2019; necla-ml/SNLI-VE): does an image of Flickr30k entail a sentence, or contradict it?

The root holds ``snli_ve_train.jsonl``, ``snli_ve_dev.jsonl`` and ``snli_ve_test.jsonl``, a pair a line; the images
lie in ``flickr30k_images``, or in ``--images``. The split dev is called val here, as in the other sources.

A pair becomes a question: the hypothesis (``sentence2``) its text, ``gold_label`` its answer, ``pairID`` its id. A
hypothesis that an image has twice stays twice. The release has no pair whose annotators disagree (label "-"): where a
file of SNLI still has some, they are left out by rule. The image is named by ``Flickr30K_ID``, in an older release by
``Flikr30kID`` with ".jpg" at its end.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.pictures import named
from laconvnet.shards.format.raw import Account, RawSample
from laconvnet.shards.format.record import Question, key
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, no_partition, sample
from laconvnet.shards.sources.faults import EntryFault
from laconvnet.shards.sources.questions import QuestionStore

_FILES = {"train": "snli_ve_train.jsonl", "val": "snli_ve_dev.jsonl", "test": "snli_ve_test.jsonl"}
_LABELS = ("entailment", "neutral", "contradiction")
_NO_LABEL = "-"
# A pair with its parse trees takes some 2 kB; a file without line ends must not be read as one line.
_LINE_MAX_BYTES = 2**20


class SnliVe:
    """Sentences about images, each entailed, contradicted or neither."""

    name = "snli_ve"
    title = "SNLI-VE: 565,286 hypotheses on 31,783 images of Flickr30k"
    licence = "SNLI, CC BY-SA 4.0; pictures: research and educational use only, Flickr terms of use"
    files = (
        "snli_ve_train.jsonl, snli_ve_dev.jsonl (split val), snli_ve_test.jsonl: a hypothesis and its label a line",
        "flickr30k_images/<id>.jpg: the images, or their folder as --images",
    )

    def samples(
        self,
        root: Path,
        *,
        images: Path | None,
        splits: Collection[str] | None,
        partition: str | None,
        with_images: bool = True,
    ) -> Samples:
        """See `shards.sources.base.Source.samples`. Images come in the order of their ids.

        The files give no size of the images: width and height are 0.
        """
        no_partition(partition, self.name)
        paths = {split: root / name for split, name in _FILES.items() if (root / name).is_file()}
        if not paths:
            raise InputError(f"{root}: none of {', '.join(_FILES.values())}; change --root")
        chosen = choose_splits(splits, paths.keys(), root)
        advice = "expected the images there; name their folder with --images"
        folder = reading.image_folder(images or root / "flickr30k_images", advice, with_images)
        account = Account()
        store = QuestionStore(
            account, lambda image: key(self.name, str(image)), lambda image: named(self.name, f"{image}.jpg")
        )
        for split, path in paths.items():
            if split in chosen:
                _load(path, split, store)

        def records() -> Iterator[RawSample]:
            for image in sorted(store, key=int):
                questions = tuple(Question(id, split, text, label) for split, _, id, text, label in store.get(image))
                yield sample(self, folder / f"{image}.jpg", image, f"{image}.jpg", questions=questions)

        return Samples(records(), len(store), account)


def _load(path: Path, split: str, store: QuestionStore) -> None:
    """Add the pairs of a file to the store, by image; the release has those of an image one after another."""
    number = 0
    for number, line in _lines(path):
        where = f"{path}: line {number}"
        with store.reading(path, split, f"line {number}") as asked:
            pair = _pair(line, where)
            asked.image = _image(pair, where)
            label = reading.field(pair, where, str, "gold_label")
            if label == _NO_LABEL:
                raise EntryFault("no label", f"{where}: its annotators disagree")
            if label not in _LABELS:
                expected = f"expected one of {', '.join(_LABELS)}, or {_NO_LABEL!r} where annotators disagree"
                raise EntryFault("field", f"{where}: key 'gold_label' is {reprlib.repr(label)}, {expected}")
            text = reading.phrase(pair, where, "sentence2")
            id = reading.text(reading.field(pair, where, str, "pairID"), where)
            store.keep(asked, split, number, id, text, label)  # by its line, which no other pair has
    if not number:
        raise InputError(f"{path}: holds no pairs; get the file again")
    store.finish(path, split)


def _image(pair: dict[str, Any], where: str) -> str:
    """The number of the image, which becomes a file name."""
    name = reading.field(pair, where, str, "Flickr30K_ID", "Flikr30kID")
    found = re.fullmatch(r"([0-9]{1,20})(?:\.jpg)?", name)
    if found is None:
        used = "Flickr30K_ID" if "Flickr30K_ID" in pair else "Flikr30kID"
        raise EntryFault("field", f"{where}: key {used!r} is {reprlib.repr(name)}, expected the number of an image")
    return found[1]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers, one in memory at a time."""
    with reading.opened(path) as (file, bar):
        number = 0
        while line := file.readline(_LINE_MAX_BYTES + 1):
            number += 1
            bar.update(len(line))
            if len(line) > _LINE_MAX_BYTES:
                raise InputError(f"{path}: line {number}: longer than {_LINE_MAX_BYTES} bytes, expected a pair a line")
            if line.strip():
                yield number, line


def _pair(line: bytes, where: str) -> dict[str, Any]:
    try:
        pair = json.loads(line)
    except (ValueError, RecursionError) as error:
        # What follows may be missing too: the file was cut, or is another one.
        raise InputError(f"{where}: broken JSON ({reprlib.repr(str(error))}); get the file again") from error
    if not isinstance(pair, dict):
        raise EntryFault("field", f"{where}: is {reprlib.repr(pair)}, expected an object")
    return pair
