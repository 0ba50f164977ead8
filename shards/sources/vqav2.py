"""VQAv2 (Goyal et al. 2017) in the layout of its download (visualqa.org/download.html).

The root holds ``v2_OpenEnded_mscoco_<part>_questions.json`` for any of the parts train2014, val2014, test2015 and
test-dev2015, which are the splits train, val, test and test-dev, beside the first two
``v2_mscoco_<part>_annotations.json`` with the answers of ten people a question, and the images of COCO,
``train2014/``, ``val2014/`` and ``test2015/`` (or in ``--images``).

test-dev asks on images of test2015, and its questions are among those of test. Both splits are stored as their files
have them, because the evaluation server scores each as a whole: a question of test-dev stands twice with its image,
once in each split, under the one id. Neither has answers.

The family of a question is its ``answer_type`` (yes/no, number, other), by which the field reports; its answer is the
``multiple_choice_answer``. Where a file lacks them, as excerpts do, the family stays None and the answer is the
commonest of the ten, the first of equals. An id is the ``question_id``; the number of an image is COCO's own in all
parts.
"""

from __future__ import annotations

import itertools
import reprlib
from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import xxhash

from laconvnet.shards.errors import InputError
from laconvnet.shards.format.pictures import named
from laconvnet.shards.format.raw import Account, Fault, Named, RawSample
from laconvnet.shards.format.record import Question, key
from laconvnet.shards.sources import reading
from laconvnet.shards.sources.base import Samples, choose_splits, no_partition, sample
from laconvnet.shards.sources.faults import EntryFault, lost
from laconvnet.shards.sources.questions import QuestionStore

# Split: the part of its files' names, the folder of its images, whether its answers are published.
_SPLITS = {
    "train": ("train2014", "train2014", True),
    "val": ("val2014", "val2014", True),
    "test": ("test2015", "test2015", False),
    "test-dev": ("test-dev2015", "test2015", False),
}
_PEOPLE = 10
_HIGHEST = 10**12  # an image's name has twelve digits

# The answer, the family and the answers of all people.
_Answered = tuple[str, str | None, list[str]]


class Vqav2:
    """Questions of people on images of COCO, each with the answers of ten."""

    name = "vqav2"
    title = "VQAv2: 1,105,904 questions on 204,721 COCO images, with ten answers each for train and val"
    licence = "annotations: CC BY 4.0; pictures: Flickr terms of use"
    files = (
        "v2_OpenEnded_mscoco_<part>_questions.json: <part> is train2014, val2014, test2015 or test-dev2015",
        "v2_mscoco_<part>_annotations.json: the answers for train2014 and val2014",
        "train2014/ val2014/ test2015/ with COCO_<folder>_<12 digits>.jpg (or the folder that holds them as --images)",
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
        """See `shards.sources.base.Source.samples`. Images come in the order of folder and number.

        The files give no size of the images: width and height are 0.
        """
        no_partition(partition, self.name)
        there = {split: _questions_path(root, split) for split in _SPLITS if _questions_path(root, split).is_file()}
        if not there:
            raise InputError(f"{root}: no v2_OpenEnded_mscoco_<part>_questions.json there; change --root")
        chosen = choose_splits(splits, there, root)
        for split in (split for split in _SPLITS if split in chosen):
            _, folder, answered = _SPLITS[split]
            reading.image_folder(
                (images or root) / folder,
                f"expected the images of split {split} there; name the folder above with --images or use --split",
                with_images,
            )
            if answered:
                reading.need_file(_annotations_path(root, split), f"expected it beside {there[split].name}")
        account = Account()
        stores: dict[str, QuestionStore] = {}
        answers = {folder: reading.CompressedStore() for _, folder, _ in _SPLITS.values()}
        for split in (split for split in _SPLITS if split in chosen):
            _, folder, answered = _SPLITS[split]
            if folder not in stores:
                stores[folder] = QuestionStore(
                    account, lambda image: key(self.name, str(image)), partial(self._named, folder)
                )
            _load_questions(there[split], split, stores[folder])
            stores[folder].need_some()
            if answered:
                _load_answers(_annotations_path(root, split), split, stores[folder], answers[folder], account)
            stores[folder].finish(there[split], split)

        def records() -> Iterator[RawSample]:
            for folder, store in stores.items():
                for image_id in sorted(store):
                    file_name = self._named(folder, image_id).file_name
                    known = dict(answers[folder].get(image_id))
                    asked = store.get(image_id)
                    questions = tuple(_question(id, split, text, known.get(id)) for split, id, text in asked)
                    path = (images or root) / folder / file_name
                    yield sample(self, path, str(image_id), file_name, questions=questions, coco_id=image_id)

        return Samples(records(), sum(len(store) for store in stores.values()), account)

    def _named(self, folder: str, image: str | int) -> Named:
        return named(self.name, f"COCO_{folder}_{int(image):012d}.jpg")


def _questions_path(root: Path, split: str) -> Path:
    return root / f"v2_OpenEnded_mscoco_{_SPLITS[split][0]}_questions.json"


def _annotations_path(root: Path, split: str) -> Path:
    return root / f"v2_mscoco_{_SPLITS[split][0]}_annotations.json"


def _question(id: int, split: str, text: str, answered: _Answered | None) -> Question:
    if answered is None:
        return Question(str(id), split, text)
    answer, family, people = answered
    return Question(str(id), split, text, answer, tuple(people), family)


def _load_questions(path: Path, split: str, store: QuestionStore) -> None:
    """Add split, id and text of the questions to the store, by image."""
    for question in reading.read_items(path, "questions.item"):
        with store.reading(path, split, question.get("question_id")) as asked:
            id = reading.field(question, f"{path}: question", int, "question_id")
            where = f"{path}: question_id {id}"
            image_id = reading.field(question, where, int, "image_id")
            if not 0 <= image_id < _HIGHEST:
                raise EntryFault("field", f"{where}: key 'image_id' is {image_id}, expected 0 to {_HIGHEST - 1}")
            asked.image = image_id
            store.keep(asked, split, id, reading.phrase(question, where, "question"))


def _load_answers(
    path: Path, split: str, questions: QuestionStore, answers: reading.CompressedStore, account: Account
) -> None:
    """Add the answers to the questions of a file, by image, as (id, (answer, family, people)).

    A question without an answer that can be used is dropped.
    """
    given: dict[int, int] = {}

    def found() -> Iterator[tuple[int, int, _Answered]]:
        for annotation in reading.read_items(path, "annotations.item"):
            id = annotation.get("question_id")
            image_id = questions.asked_of(id)
            if not isinstance(id, int) or not isinstance(image_id, int):
                if not questions.was_lost(id):
                    account.count(split, question=1)
                    account.faults.append(_asked_nowhere(annotation, split, path))
                continue
            where = f"{path}: question_id {id}"
            digest = xxhash.xxh3_64_intdigest(repr(annotation).encode("utf-8", "backslashreplace"))
            if id in given:
                account.faults += _twin(id, given[id] == digest, where, questions, split, path)
                continue
            given[id] = digest
            try:
                if annotation.get("image_id", image_id) != image_id:
                    told = f"key 'image_id' is {reprlib.repr(annotation['image_id'])}, the question's is {image_id}"
                    raise EntryFault("no picture", f"{where}: {told}; get the original files")
                yield image_id, id, _answered(annotation, where)
            except EntryFault as error:
                questions.drop(id, error)

    # The download has the questions of an image together, but nothing says that it must.
    for image_id, group in itertools.groupby(found(), lambda entry: entry[0]):
        answers.add(image_id, [(id, answered) for _, id, answered in group])
    for id in questions.kept:
        if id not in given:
            questions.drop(id, EntryFault("no answer", f"{path}: question_id {id} of this split has no annotation"))


def _twin(id: int, alike: bool, where: str, questions: QuestionStore, split: str, path: Path) -> Iterator[Fault]:
    """A second annotation of a question, which is lost where they differ."""
    if not alike:
        questions.drop(id, EntryFault("duplicate id", f"{where}: its annotation occurs twice, with other contents"))
        return
    told = f"{where}: its annotation occurs twice, alike"
    yield Fault("question", str(id), split, "duplicate id", told, str(path), (("question", 1),), changed=True)


def _asked_nowhere(annotation: dict[str, Any], split: str, path: Path) -> Fault:
    id = annotation.get("question_id")
    told = f"{path}: question_id {reprlib.repr(id)}: is asked nowhere in this split; get the original files"
    return lost(EntryFault("no question", told), "question", id, split, path, {"question": 1})


def _answered(annotation: dict[str, Any], where: str) -> _Answered:
    entries = reading.objects(annotation, where, "answers")
    people = [reading.text(reading.field(entry, where, str, "answer"), where) for entry in entries]
    if len(people) != _PEOPLE:
        raise EntryFault("field", f"{where}: key 'answers' holds {len(people)}, expected those of {_PEOPLE} people")
    if "multiple_choice_answer" in annotation:
        answer = reading.text(reading.field(annotation, where, str, "multiple_choice_answer"), where)
    else:
        answer = Counter(people).most_common(1)[0][0]
    family = reading.field(annotation, where, str, "answer_type") if "answer_type" in annotation else None
    return answer, family, people
