"""CLEVR (Johnson et al. 2017) in the layout of the CLEVR_v1.0 download and of the CLEVR generator.

The root holds ``questions/CLEVR_<split>_questions.json`` and ``images/<split>/*.png``; the scenes are not needed: they
give where the centre of an object is, not its box, so a record of CLEVR has questions and no regions.

The family of a question is one of the five the papers report, from the last function of its program (key ``function``
in the download, ``type`` in what the generator writes). The questions of the test split have neither program nor
answer: both stay None. A question's id is ``<split>-<question_index>``, because the index starts anew in each split.
Pictures without a question are not built.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from shards.errors import InputError
from shards.raw import RawSample
from shards.record import Question, Record
from shards.sources import reading
from shards.sources.base import Samples, choose_splits, no_partition

_FAMILIES = {
    "count": "count",
    "exist": "exist",
    **dict.fromkeys(("equal_integer", "less_than", "greater_than"), "compare_number"),
    **dict.fromkeys(("equal_color", "equal_shape", "equal_size", "equal_material"), "compare_attribute"),
    **dict.fromkeys(("query_color", "query_shape", "query_size", "query_material"), "query_attribute"),
}


class Clevr:
    """Questions on rendered scenes."""

    name = "clevr"
    title = "CLEVR: 999,968 questions with programs on 100,000 rendered pictures"
    licence = "CC BY 4.0"
    files = (
        "questions/CLEVR_<split>_questions.json: questions, answers and programs",
        "images/<split>/*.png: the pictures (or the folder that holds <split>/ as --images)",
    )

    def samples(
        self, root: Path, *, images: Path | None, splits: Collection[str] | None, partition: str | None
    ) -> Samples:
        """See `shards.sources.base.Source.samples`. Pictures come in the order of split and file name.

        The files give no size of the pictures: width and height are 0.
        """
        no_partition(partition, self.name)
        folder = reading.need_folder(
            root / "questions", "expected questions/CLEVR_<split>_questions.json under --root; change --root"
        )
        paths = {
            match[1]: path
            for path in sorted(folder.iterdir())
            if (match := re.fullmatch(r"CLEVR_(\w+)_questions\.json", path.name))
        }
        if not paths:
            raise InputError(f"{folder}: no CLEVR_<split>_questions.json there; change --root")
        chosen = sorted(choose_splits(splits, paths.keys(), folder))
        folders = {
            split: reading.need_folder(
                (images or root / "images") / split,
                f"expected the pictures of split {split} there; name the folder above with --images or use --split",
            )
            for split in chosen
        }
        shelves = {split: _load(paths[split], split, folders[split]) for split in chosen}

        def records() -> Iterator[RawSample]:
            for split, shelf in shelves.items():
                for file_name in sorted(shelf):
                    record = Record(
                        source=self.name,
                        picture_id=Path(file_name).stem,
                        file_name=file_name,
                        width=0,
                        height=0,
                        licence=self.licence,
                        questions=tuple(
                            Question(id, split, text, answer, family=family)
                            for id, text, answer, family in shelf.get(file_name)
                        ),
                    )
                    yield RawSample(record, reading.inside(folders[split], file_name, str(paths[split])))

        return Samples(records(), sum(len(shelf) for shelf in shelves.values()))


def _load(path: Path, split: str, pictures: Path) -> reading.Shelf:
    """The questions by picture. The download has them together, but nothing says that they must be."""
    shelf = reading.Shelf(path)
    questions = reading.read_items(path, "questions.item")
    for file_name, group in itertools.groupby(questions, lambda question: question.get("image_filename")):
        entries = [_question(question, split, path) for question in group]
        if not isinstance(file_name, str):
            raise InputError(
                f"{path}: question {entries[0][0]}: key 'image_filename' is {file_name!r}, expected a name"
            )
        reading.inside(pictures, file_name, f"{path}: question {entries[0][0]}")
        shelf.add(file_name, entries)
    return shelf


def _question(question: dict[str, Any], split: str, path: Path) -> tuple[str, str, str | None, str | None]:
    id = f"{split}-{reading.field(question, f'{path}: question', int, 'question_index')}"
    where = f"{path}: question {id}"
    text = reading.text(reading.field(question, where, str, "question"), where)
    if not text:
        raise InputError(f"{where}: key 'question' is empty; get the file again")
    answer = reading.field(question, where, str, "answer") if "answer" in question else None
    return id, text, answer, _family(question, where) if "program" in question else None


def _family(question: dict[str, Any], where: str) -> str:
    program = reading.objects(question, where, "program")
    if not program:
        raise InputError(f"{where}: key 'program' is empty, expected its functions in order")
    function = reading.field(program[-1], f"{where}: program", str, "function", "type")
    if function not in _FAMILIES:
        raise InputError(f"{where}: the program ends in {function!r}, expected one of {', '.join(sorted(_FAMILIES))}")
    return _FAMILIES[function]
