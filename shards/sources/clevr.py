"""CLEVR (Johnson et al. 2017) in the layout of the CLEVR_v1.0 download and of the CLEVR generator.

The root holds ``questions/CLEVR_<split>_questions.json`` and ``images/<split>/*.png``; the scenes are not needed: they
give where the centre of an object is, not its box, so a record of CLEVR has questions and no regions.

The family of a question is one of the five the papers report, from the last function of its program (key ``function``
in the download, ``type`` in what the generator writes). The questions of the test split have neither program nor
answer: both stay None. A question's id is ``<split>-<question_index>``, because the index starts anew in each split.
Images without a question are not built.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
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

_FAMILIES = {
    "count": "count",
    "exist": "exist",
    **dict.fromkeys(("equal_integer", "less_than", "greater_than"), "compare_number"),
    **dict.fromkeys(("equal_color", "equal_shape", "equal_size", "equal_material"), "compare_attribute"),
    **dict.fromkeys(("query_color", "query_shape", "query_size", "query_material"), "query_attribute"),
}


@dataclass(frozen=True, slots=True)
class Clevr:
    """Questions on rendered scenes, a JSON file of them a split."""

    name: str
    title: str
    question_files: str = "questions/CLEVR_<split>_questions.json"
    licence: str = "CC BY 4.0"

    @property
    def files(self) -> tuple[str, ...]:
        return (
            f"{self.question_files}: questions, answers and programs",
            "images/<split>/*.png: the images (or the folder that holds <split>/ as --images)",
        )

    def question_number(self, question: dict[str, Any], position: int, path: Path) -> int:
        """The number of a question within its split, of which the position in the file counts from 0."""
        return reading.field(question, f"{path}: question", int, "question_index")

    def samples(
        self,
        root: Path,
        *,
        images: Path | None,
        splits: Collection[str] | None,
        partition: str | None,
        with_images: bool = True,
    ) -> Samples:
        """See `shards.sources.base.Source.samples`. Images come in the order of split and file name.

        The files give no size of the images: width and height are 0.
        """
        no_partition(partition, self.name)
        paths = chosen_files(root, self.question_files, splits)
        folders = image_folders(images or root / "images", paths, with_images)
        account = Account()
        stores = {split: self._load(path, split, folders[split], account) for split, path in paths.items()}

        def records() -> Iterator[RawSample]:
            for split, store in stores.items():
                for file_name in sorted(store):
                    questions = tuple(
                        Question(id, split, text, answer, family=family)
                        for _, id, text, answer, family in store.get(file_name)
                    )
                    path = reading.inside(folders[split], file_name, str(paths[split]))
                    yield sample(self, path, Path(file_name).stem, file_name, questions=questions)

        return Samples(records(), sum(len(store) for store in stores.values()), account)

    def _load(self, path: Path, split: str, image_folder: Path, account: Account) -> QuestionStore:
        """The questions by image. The download has them together, but nothing says that they must be."""
        store = QuestionStore(
            account,
            lambda file_name: key(self.name, Path(str(file_name)).stem),
            lambda file_name: named(self.name, str(file_name)),
        )
        for position, question in enumerate(reading.read_items(path, "questions.item")):
            number = f"{split}-{question.get('question_index', position)}"
            with store.reading(path, split, number) as asked:
                id = f"{split}-{self.question_number(question, position, path)}"
                where = f"{path}: question {id}"
                file_name = reading.field(question, where, str, "image_filename")
                reading.inside(image_folder, file_name, where)
                asked.image = file_name
                text = reading.phrase(question, where, "question")
                answer = reading.field(question, where, str, "answer") if "answer" in question else None
                store.keep(asked, split, id, text, answer, _family(question, where) if "program" in question else None)
        store.finish(path, split)
        return store


CLEVR = Clevr("clevr", "CLEVR: 999,968 questions with programs on 100,000 rendered images")


def chosen_files(root: Path, layout: str, splits: Collection[str] | None) -> dict[str, Path]:
    """The files of the chosen splits, sorted, by split; the layout tells where they are, with "<split>" in their name.

    Raises InputError where there is none, or none of a requested split.
    """
    pattern = root / layout
    folder = reading.need_folder(pattern.parent, f"expected {layout} under --root; change --root")
    before, after = map(re.escape, pattern.name.split("<split>"))
    paths = {
        match[1]: path
        for path in sorted(folder.iterdir())
        if (match := re.fullmatch(rf"{before}(\w+){after}", path.name))
    }
    if not paths:
        raise InputError(f"{folder}: no {pattern.name} there; change --root")
    return {split: paths[split] for split in sorted(choose_splits(splits, paths.keys(), folder))}


def image_folders(above: Path, splits: Iterable[str], with_images: bool) -> dict[str, Path]:
    """The folders of the images by split; raises InputError for one that is not there, where they are looked for."""
    advice = "expected the images of split {} there; name the folder above with --images or use --split"
    return {split: reading.image_folder(above / split, advice.format(split), with_images) for split in splits}


def last_function(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """The function that a program ends in, whose output is the answer."""
    program = reading.objects(entry, where, "program")
    if not program:
        raise EntryFault("field", f"{where}: key 'program' is empty, expected its functions in order")
    return program[-1]


def _family(question: dict[str, Any], where: str) -> str:
    function = reading.field(last_function(question, where), f"{where}: program", str, "function", "type")
    if function not in _FAMILIES:
        known = ", ".join(sorted(_FAMILIES))
        raise EntryFault("field", f"{where}: the program ends in {reprlib.repr(function)}, expected one of {known}")
    return _FAMILIES[function]
