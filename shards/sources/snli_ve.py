"""SNLI-VE (Xie et al. 2019; necla-ml/SNLI-VE): does an image of Flickr30k entail a sentence, or contradict it?

The root holds ``snli_ve_train.jsonl``, ``snli_ve_dev.jsonl`` and ``snli_ve_test.jsonl``, a pair a line; the images
lie in ``flickr30k_images``, or in ``--images``. The split dev is called val here, as in the other sources.

A pair becomes a question: the hypothesis (``sentence2``) its text, ``gold_label`` its answer, ``pairID`` its id. A
hypothesis that an image has twice stays twice. The release has no pair whose annotators disagree (label "-"):
where a file of SNLI still has some, they are skipped and counted in a warning, like hypotheses without words. The
image is named by ``Flickr30K_ID``, in an older release by ``Flikr30kID`` with ".jpg" at its end.
"""

from __future__ import annotations

import json
import logging
import re
import reprlib
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Question
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, no_partition, sample

_LOG = logging.getLogger(__name__)
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
        self, root: Path, *, images: Path | None, splits: Collection[str] | None, partition: str | None
    ) -> Samples:
        """See `shards.sources.base.Source.samples`. Images come in the order of their ids.

        The files give no size of the images: width and height are 0.
        """
        no_partition(partition, self.name)
        paths = {split: root / name for split, name in _FILES.items() if (root / name).is_file()}
        if not paths:
            raise InputError(f"{root}: none of {', '.join(_FILES.values())}; change --root")
        chosen = choose_splits(splits, paths.keys(), root)
        folder = reading.need_folder(
            images or root / "flickr30k_images", "expected the images there; name their folder with --images"
        )
        store = reading.CompressedStore(root)
        for split, path in paths.items():
            if split in chosen:
                _load(path, split, store)

        def records() -> Iterator[RawSample]:
            for image in sorted(store, key=int):
                questions = tuple(Question(id, split, text, label) for split, id, text, label in store.get(image))
                yield sample(self, folder / f"{image}.jpg", image, f"{image}.jpg", questions=questions)

        return Samples(records(), len(store))


def _load(path: Path, split: str, store: reading.CompressedStore) -> None:
    """Add the pairs of a file to the store, by image; the release has those of an image one after another."""
    skipped: Counter[str] = Counter()
    held: list[tuple[str, str, str, str]] = []
    last = None
    for where, pair in _lines(path):
        image = _image(pair, where)
        label = reading.field(pair, where, str, "gold_label")
        if label != _NO_LABEL and label not in _LABELS:
            raise InputError(
                f"{where}: key 'gold_label' is {reprlib.repr(label)}, expected one of {', '.join(_LABELS)}, or "
                f"{_NO_LABEL!r} where annotators disagree"
            )
        text = reading.text(reading.field(pair, where, str, "sentence2"), where)
        if label == _NO_LABEL or not text:
            skipped["an agreed label" if text else "words"] += 1
            continue
        if image != last and last is not None:
            store.add(last, held)
            held = []
        last = image
        held.append((split, reading.text(reading.field(pair, where, str, "pairID"), where), text, label))
    if last is None:
        raise InputError(f"{path}: holds no pairs with a label; get the file again")
    store.add(last, held)
    for what, count in skipped.items():
        _LOG.warning("%s: %d hypotheses without %s are left out", path, count, what)


def _image(pair: dict[str, Any], where: str) -> str:
    """The number of the image, which becomes a file name."""
    name = reading.field(pair, where, str, "Flickr30K_ID", "Flikr30kID")
    found = re.fullmatch(r"([0-9]{1,20})(?:\.jpg)?", name)
    if found is None:
        key = "Flickr30K_ID" if "Flickr30K_ID" in pair else "Flikr30kID"
        raise InputError(f"{where}: key {key!r} is {reprlib.repr(name)}, expected the number of an image")
    return found[1]


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines file, one line in memory at a time, each with file and line for messages."""
    with reading.opened(path) as (file, bar):
        number = 0
        while line := file.readline(_LINE_MAX_BYTES + 1):
            number += 1
            bar.update(len(line))
            where = f"{path}: line {number}"
            if len(line) > _LINE_MAX_BYTES:
                raise InputError(f"{where}: longer than {_LINE_MAX_BYTES} bytes, expected a pair a line")
            if not line.strip():
                continue
            try:
                pair = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: broken JSON ({reprlib.repr(str(error))}); get the file again") from error
            if not isinstance(pair, dict):
                raise InputError(f"{where}: is {reprlib.repr(pair)}, expected an object")
            yield where, pair
