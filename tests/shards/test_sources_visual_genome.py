"""Visual Genome in its old and new layouts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from laconvnet.shards import sources
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from tests.samples import SAMPLES, needs

DATA = SAMPLES / "visual_genome"
real = needs(DATA)
URL = "https://example.org/people/rak248/"


def _samples(root: Path, **options: Any) -> list[RawSample]:
    options = {"images": None, "splits": None, "partition": None, **options}
    return list(sources.get("visual_genome").samples(root, **options))


def _image(image_id: int, folder: str = "VG_100K", **changes: Any) -> dict[str, Any]:
    url = f"{URL}{folder}/{image_id}.jpg"
    return {"image_id": image_id, "url": url, "width": 100, "height": 80, "coco_id": None, "flickr_id": 1, **changes}


def _thing(object_id: int, names: Sequence[object], x: int = 0, **more: Any) -> dict[str, Any]:
    return {"object_id": object_id, "x": x, "y": 1, "w": 10, "h": 20, "names": names, "synsets": [], **more}


def _write(root: Path, pictures: list[dict[str, Any]], **files: Any) -> Path:
    for folder in ("VG_100K", "VG_100K_2"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for image in pictures:
        (root / "VG_100K" / f"{image['image_id']}.jpg").touch()
    (root / "image_data.json").write_text(json.dumps(pictures))
    for name, content in files.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


def _attributes(root: Path, *things: dict[str, Any]) -> Record:
    (sample,) = _samples(_write(root, [_image(1)], attributes=[{"image_id": 1, "attributes": list(things)}]))
    return sample.record


def _expressions(record: Record) -> dict[str, list[str]]:
    return {region.id: [expression.text for expression in region.expressions] for region in record.regions}


def test_the_partition_names_the_parts_that_are_read(tmp_path: Path) -> None:
    phrase = {"region_id": 7, "phrase": "a tall clock", "x": 1, "y": 1, "width": 10, "height": 20}
    question = {"qa_id": 9, "question": "Where?", "answer": "Here."}
    root = _write(
        tmp_path,
        [_image(1)],
        region_descriptions=[{"id": 1, "regions": [phrase]}],
        objects=[{"image_id": 1, "objects": [_thing(3, ["clock"])]}],
        question_answers=[{"id": 1, "qas": [question]}],
    )

    def said(partition: str | None) -> tuple[list[str], int]:
        (sample,) = _samples(root, partition=partition)
        return [texts[0] for texts in _expressions(sample.record).values()], len(sample.record.questions)

    assert said(None) == (["a tall clock", "clock"], 1)
    assert said("phrases") == (["a tall clock"], 0)
    assert said("questions+objects") == (["clock"], 1)
    account = sources.get("visual_genome").samples(root, images=None, splits=None, partition="phrases").account
    assert account is not None
    assert account.read["train", "region"] == 1, "what is not asked for was never read"
    with pytest.raises(InputError, match=r"attributes\.json: no such file; .*--partition phrases\+attributes"):
        _samples(root, partition="phrases+attributes")
    for wrong in ("regions", "phrases+phrases", ""):
        with pytest.raises(InputError, match="expected parts of phrases, objects, attributes, questions"):
            _samples(root, partition=wrong)


@real
def test_the_real_attributes_and_questions() -> None:
    samples = {sample.record.picture_id: sample for sample in _samples(DATA)}
    assert list(samples) == ["1", "2", "3", "4", "5"]
    assert [len(s.record.regions) for s in samples.values()] == [27, 24, 18, 25, 21]
    assert [len(s.record.questions) for s in samples.values()] == [0, 0, 0, 5, 3]
    assert samples["4"].image == DATA / "4.jpg"
    assert samples["4"].record.questions[1] == Question("987282", "train", "Where was the photo taken?", "In a room")
    record = samples["1"].record
    assert (record.width, record.height, record.coco_id, record.splits) == (800, 600, None, ("train",))
    clock = record.regions[0]
    assert clock == Region(
        "attribute-38203",
        "train",
        ((421.0, 91.0, 79.0, 339.0),),
        (
            Expression("attribute-38203-0", "green clock"),
            Expression("attribute-38203-1", "tall clock"),
        ),
        category="clock",
        attributes=("green", "tall"),
    )


@real
def test_a_real_phrase_that_fits_two_boxes_is_no_expression() -> None:
    regions = _samples(DATA)[0].record.regions
    bikes = {
        region.boxes[0][0]: [e.text for e in region.expressions] for region in regions if region.category == "bike"
    }
    # Both bikes are parked and far away; only the second is visible and chained.
    assert bikes == {318.0: [], 334.0: ["visible bike", "chained bike"]}


@real
def test_the_real_region_objects_and_questions_of_the_documentation(tmp_path: Path) -> None:
    quoted = json.loads((DATA / "first_records_quoted_in_docs.json").read_text())
    root = _write(
        tmp_path,
        [_image(1, width=800, height=600)],
        region_descriptions=quoted["region_descriptions_first_records"],
        objects=[{"image_id": 1, "objects": [quoted["objects_v1.2_first_record"]], "image_url": "x"}],
        question_answers=[{"id": 1, "qas": [quoted["question_answers_first_record"]]}],
    )
    (sample,) = _samples(root)
    assert [(r.id, r.box) for r in sample.record.regions] == [
        ("1382", (421.0, 57.0, 82.0, 139.0)),
        ("1383", (194.0, 372.0, 182.0, 109.0)),
        ("1384", (241.0, 491.0, 61.0, 30.0)),
        ("object-1058498", (421.0, 91.0, 79.0, 339.0)),
    ]
    assert [e.text for r in sample.record.regions for e in r.expressions] == [
        "the clock is green in colour",
        "shade is along the street",
        "man is wearing sneakers",
        "clock",
    ]
    assert sample.record.questions == (Question("986768", "train", "What color is the clock?", "Green"),)


def test_objects_and_attributes_meet_by_id_and_by_look(tmp_path: Path) -> None:
    objects = [_thing(5, ["clock"]), _thing(6, ["man"], 50), _thing(7, ["man"], 50), _thing(8, [], 70)]
    attributes = [
        _thing(5, ["clock"], 1, attributes=["green", "tall"]),  # the object's box counts
        _thing(7, ["man"], 50, attributes=["old"]),
        _thing(7, ["man"], 50, attributes=["old"]),
        _thing(9, ["bag"], 30, attributes=["red"]),
    ]
    root = _write(
        tmp_path,
        [_image(1)],
        objects=[{"image_id": 1, "objects": objects}],
        attributes=[{"image_id": 1, "attributes": attributes}],
    )
    (sample,) = _samples(root)
    regions = {region.id: region for region in sample.record.regions}
    assert _expressions(sample.record) == {
        "object-5": ["green tall clock"],
        "object-6": ["old man"],
        "object-8": [],
        "object-9": ["red bag"],
    }
    assert regions["object-5"].boxes == ((0.0, 1.0, 10.0, 20.0),)
    assert regions["object-5"].attributes == ("green", "tall")
    assert regions["object-8"].category is None


def test_an_image_of_thousands_of_objects_is_refused(tmp_path: Path) -> None:
    things = [_thing(number, ["cat"], number, attributes=[f"a{number}"]) for number in range(2001)]
    assert len(_attributes(tmp_path / "most", *things[:2000]).regions) == 2000
    with pytest.raises(InputError, match=r"attributes\.json: image 1: 2001 entries, expected at most 2000"):
        _attributes(tmp_path / "more", *things)


def test_an_entry_id_of_the_old_layout_is_not_an_object_id(tmp_path: Path) -> None:
    old = {"id": 5, "x": 40, "y": 1, "w": 10, "h": 20, "object_names": ["bag"], "attributes": ["red"]}
    root = _write(
        tmp_path,
        [_image(1)],
        objects=[{"id": 1, "objects": [{**_thing(5, ["clock"]), "object_id": 5}]}],
        attributes=[{"id": 1, "attributes": [old]}],
    )
    (sample,) = _samples(root)
    assert _expressions(sample.record) == {"object-5": ["clock"], "attribute-5": ["red bag"]}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["red"], ["red"], ([], [])),
        (["red"], ["RED"], ([], [])),
        (["red"], ["blue"], (["red cup"], ["blue cup"])),
        (["red"], ["red", "big"], ([], ["red big cup"])),  # the big one is red too
        (None, ["big"], ([], ["big cup"])),  # the name alone fits both
        ([], [], ([], [])),
    ],
)
def test_only_what_names_one_object_is_an_expression(
    tmp_path: Path, first: list[str] | None, second: list[str], expected: tuple[list[str], list[str]]
) -> None:
    things = [_thing(1, ["cup"], attributes=first), _thing(2, ["Cup"], 50, attributes=second)]
    expressions = _expressions(_attributes(tmp_path, *things))
    assert (expressions["object-1"], [text.lower() for text in expressions["object-2"]]) == expected


def test_a_name_that_occurs_once_is_an_expression(tmp_path: Path) -> None:
    assert _expressions(_attributes(tmp_path, _thing(1, ["cup"]), _thing(2, ["table"], 50))) == {
        "object-1": ["cup"],
        "object-2": ["table"],
    }


def test_images_are_found_by_address_then_by_id(tmp_path: Path) -> None:
    pictures = [
        _image(1, "VG_100K_2"),  # in both folders: the address decides
        _image(2, "VG_100K_2"),  # in the other folder
        _image(3, url=None),
        _image(4),  # nowhere
        _image(5, coco_id=77),
    ]
    root = _write(
        tmp_path, pictures, question_answers=[{"id": p["image_id"], "qas": [_qa(p["image_id"])]} for p in pictures]
    )
    (root / "VG_100K_2" / "1.jpg").touch()
    (root / "VG_100K" / "3.jpg").rename(root / "3.jpg")
    (root / "VG_100K" / "4.jpg").unlink()
    (root / "images").mkdir()
    (root / "VG_100K" / "5.jpg").rename(root / "images" / "5.jpg")
    samples = _samples(root)
    assert [str(s.image.relative_to(root)) for s in samples] == [
        "VG_100K_2/1.jpg",
        "VG_100K/2.jpg",
        "3.jpg",
        "VG_100K/4.jpg",
        "images/5.jpg",
    ]
    assert samples[4].record.coco_id == 77
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(root / "VG_100K" / "2.jpg", elsewhere / "2.jpg")
    assert _samples(root, images=elsewhere)[1].image == elsewhere / "2.jpg"


def _qa(qa_id: int, question: str = "What?", answer: str = "U.S. flag.") -> dict[str, Any]:
    return {"qa_id": qa_id, "image_id": 1, "question": question, "answer": answer, "a_objects": [], "q_objects": []}


def test_what_says_nothing_is_lost_and_named(tmp_path: Path) -> None:
    phrase = {"region_id": 1, "x": -3, "y": 2, "width": 500, "height": 4, "phrase": " a\nred cup "}
    root = _write(
        tmp_path,
        [_image(1), _image(2), _image(3)],
        region_descriptions=[
            {"id": 1, "regions": [phrase, {**phrase, "region_id": 2, "phrase": " "}]},
            {"id": 2, "regions": []},
            {"id": 3, "regions": [{**phrase, "phrase": ""}]},
            {"id": 8, "regions": [phrase]},
        ],
        question_answers=[{"id": 1, "qas": [_qa(1), _qa(2, " "), _qa(3, "What?", ".")]}],
    )
    samples = sources.get("visual_genome").samples(root, images=None, splits=None, partition=None)
    sample, silent = list(samples)
    assert sample.record.regions == (Region("1", "train", ((-3.0, 2.0, 500.0, 4.0),), (Expression("1", "a red cup"),)),)
    assert [(q.id, q.answer) for q in sample.record.questions] == [("1", "U.S. flag")]
    assert silent.nothing_left
    blank = [(fault.kind, fault.id, fault.cause) for fault in (*sample.faults, *silent.faults)]
    assert blank == [
        (*one, "blank") for one in (("region", "2"), ("question", "2"), ("question", "3"), ("region", "1"))
    ]
    assert samples.account is not None
    (unlisted,) = samples.account.faults
    assert (unlisted.kind, unlisted.id, unlisted.cause, unlisted.key) == (
        "picture",
        "8",
        "no picture",
        "visual_genome-8",
    )
    assert dict(unlisted.takes) == {"picture": 1, "region": 1, "expression": 1, "box": 1}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (_image(1, url=f"{URL}../../etc/passwd"), "image 1: key 'url': file name .* leaves its folder"),
        (_image(1, url="file:///etc/passwd"), "image 1: key 'url': file name '/etc/passwd' leaves"),
        (_image(1, url=3), "image 1: key 'url' is 3, expected str"),
        (_image(1, width="100"), "image 1: key 'width' is '100', expected int"),
        (_image(1, coco_id="x"), "image 1: key 'coco_id' is 'x', expected int"),
    ],
)
def test_a_bad_image_entry_is_named(tmp_path: Path, image: dict[str, Any], message: str) -> None:
    root = _write(tmp_path, [image], question_answers=[{"id": 1, "qas": [_qa(1)]}])
    with pytest.raises(InputError, match=rf"image_data\.json: {message}"):
        _samples(root)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"attributes": [{"image_id": 1, "attributes": [_thing(5, ["a", 3])]}]},
            "attributes.json: .*1: object 5: name",
        ),
        ({"objects": [{"image_id": 1, "objects": [{**_thing(5, ["a"]), "w": None}]}]}, "objects.json: .*object 5: box"),
        ({"objects": [{"image_id": 1, "objects": [{"names": ["a"]}]}]}, "'object_id' or 'id' is missing"),
        ({"objects": [{"image_id": 1, "regions": []}]}, "image 1: key 'objects' is missing"),
        (
            {"question_answers": [{"id": 1, "qas": [{"qa_id": 4, "question": "x"}]}]},
            "question 4: key 'answer' is missing",
        ),
        ({"region_descriptions": [{"id": 1, "regions": [{"region_id": 4}]}]}, "region 4: key 'phrase' is missing"),
    ],
)
def test_a_bad_annotation_is_named(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _samples(_write(tmp_path, [_image(1)], **files))


def test_missing_files_are_named_before_the_first_sample(tmp_path: Path) -> None:
    def start(root: Path, **options: Any) -> None:
        options = {"images": None, "splits": None, "partition": None, **options}
        sources.get("visual_genome").samples(root, **options)

    with pytest.raises(InputError, match=r"nowhere: no such folder; .*change --root"):
        start(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"image_data\.json: no such file; .*change --root"):
        start(tmp_path)
    root = _write(tmp_path, [_image(1)])
    with pytest.raises(InputError, match=r"no annotations; .*region_descriptions\.json, objects\.json"):
        start(root)
    (root / "question_answers.json").write_text(json.dumps([{"id": 1, "qas": [_qa(1)]}]))
    with pytest.raises(InputError, match=r"--split val: .* expected one of train"):
        start(root, splits=["val"])
    with pytest.raises(InputError, match="--partition unc"):
        start(root, partition="unc")
    with pytest.raises(InputError, match=r"elsewhere: no such folder; .*--images"):
        start(root, images=tmp_path / "elsewhere")
    (root / "VG_100K" / "1.jpg").unlink()
    with pytest.raises(InputError, match=r"no images in .*VG_100K.*; name their folder with --images"):
        start(root)
