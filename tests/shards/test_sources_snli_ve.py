"""SNLI-VE: real pairs, both spellings of the image's key, and what a line may not be."""

from __future__ import annotations

import json
import operator
import re
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from laconvnet.launch import cli
from laconvnet.shards import sources
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Question
from laconvnet.shards.sets.holdout import identities
from tests.samples import SAMPLES, needs

DATA = SAMPLES / "snli_ve"
real = needs(DATA)


def _samples(root: Path, **options: Any) -> list[RawSample]:
    options = {"images": None, "splits": None, "partition": None, **options}
    return list(sources.get("snli_ve").samples(root, **options))


def _pair(image: str, number: int, label: str = "neutral", **changes: Any) -> dict[str, Any]:
    return {
        "Flickr30K_ID": image,
        "annotator_labels": [label],
        "captionID": f"{image}.jpg#0",
        "gold_label": label,
        "pairID": f"{image}.jpg#0r{number}",
        "sentence1": "A caption.",
        "sentence2": f"Hypothesis {number}.",
        **changes,
    }


def _write(root: Path, **files: list[Any]) -> Path:
    (root / "flickr30k_images").mkdir(parents=True, exist_ok=True)
    for name, pairs in files.items():
        lines = [pair if isinstance(pair, str) else json.dumps(pair) for pair in pairs]
        (root / f"snli_ve_{name}.jsonl").write_text("\n".join(lines) + "\n")
    return root


@real
def test_the_real_samples(tmp_path: Path) -> None:
    (tmp_path / "snli_ve_test.jsonl").write_bytes((DATA / "sample_pairs.jsonl").read_bytes())
    samples = _samples(tmp_path, images=DATA)
    assert [sample.record.picture_id for sample in samples] == ["402978771", "2248275918"]
    assert all(sample.image.is_file() for sample in samples)
    questions = samples[1].record.questions
    assert questions[:2] == (
        Question("2248275918.jpg#2r1c", "test", "A toddler sleeps outside.", "contradiction"),
        Question("2248275918.jpg#2r1n", "test", "A toddler poses at the office.", "neutral"),
    )
    assert len(questions) == 15
    assert Counter(q.answer for q in questions) == {"entailment": 5, "neutral": 6, "contradiction": 4}


def test_the_content_in_full(tmp_path: Path) -> None:
    train = [_pair("30", 1), _pair("30", 2, "entailment", sentence2="The same."), _pair("4", 1, "contradiction")]
    again = _pair("30", 3, sentence2=" The  same. ")
    root = _write(tmp_path, train=[*train, "", again], dev=[_pair("5", 1)], test=[_pair("100", 1)])
    samples = sources.get("snli_ve").samples(root, images=None, splits=None, partition=None)
    assert operator.length_hint(samples) == 4
    got = list(samples)
    assert [sample.record.picture_id for sample in got] == ["4", "5", "30", "100"], "in the order of their numbers"
    record = got[2].record
    assert (record.source, record.file_name, record.width, record.height) == ("snli_ve", "30.jpg", 0, 0)
    assert (record.coco_id, record.regions) == (None, ())
    assert record.licence == sources.get("snli_ve").licence
    assert record.questions == (
        Question("30.jpg#0r1", "train", "Hypothesis 1.", "neutral"),
        Question("30.jpg#0r2", "train", "The same.", "entailment"),
        Question("30.jpg#0r3", "train", "The same.", "neutral"),  # said twice, kept twice
    )
    assert got[2].image == root / "flickr30k_images" / "30.jpg"
    assert [q.split for q in got[1].record.questions] == ["val"], "dev is called val"
    assert got[3].record.splits == ("test",)


def test_an_image_is_the_same_one_in_flickr30k(tmp_path: Path) -> None:
    (sample,) = _samples(_write(tmp_path, test=[_pair("4945942737", 1)]))
    record = sample.record
    mine = identities(record.source, record.file_name, record.coco_id, 1)
    assert mine == identities("flickr30k", "4945942737.jpg", None, 1)
    assert mine[:2] == (("Flickr id", "4945942737"), ("file name", "flickr30k/4945942737"))


def test_the_older_spelling_of_the_key(tmp_path: Path) -> None:
    pairs = [{**_pair("7", 1), "Flikr30kID": "7.jpg"}, {**_pair("7", 2), "Flikr30kID": "7"}]
    for pair in pairs:
        del pair["Flickr30K_ID"]
    root = _write(tmp_path, train=[*pairs, _pair("7", 3, Flickr30K_ID="7.jpg")])
    (sample,) = _samples(root)
    assert (sample.record.file_name, len(sample.record.questions)) == ("7.jpg", 3)


def test_splits_are_chosen_and_images_may_lie_elsewhere(tmp_path: Path) -> None:
    root = _write(tmp_path, train=[_pair("1", 1)], dev=[_pair("2", 1)])
    (sample,) = _samples(root, splits=["val"], images=tmp_path)
    assert (sample.record.splits, sample.image) == (("val",), tmp_path / "2.jpg")
    for split in ("test", "dev"):
        with pytest.raises(InputError, match=rf"--split {split}: .* expected one of train, val$"):
            _samples(root, splits=[split])


def _faults(root: Path) -> tuple[list[RawSample], list[tuple[str, str]]]:
    samples = sources.get("snli_ve").samples(root, images=None, splits=None, partition=None)
    found = list(samples)
    assert samples.account is not None
    return found, [(fault.cause, fault.reason) for fault in samples.account.faults]


def test_what_annotators_disagree_on_is_left_out_and_named(tmp_path: Path) -> None:
    pairs = [_pair("1", 1, "-"), _pair("1", 2), _pair("2", 1, "-"), _pair("1", 3, sentence2=" \t"), _pair("1", 4)]
    (sample,), faults = _faults(_write(tmp_path, train=pairs))
    assert [question.id for question in sample.record.questions] == ["1.jpg#0r2", "1.jpg#0r4"]
    assert [cause for cause, _ in faults] == ["no label", "no label", "blank", "no label"]
    assert "line 4: key 'sentence2'" in faults[2][1]
    assert "nothing of it is left" in faults[3][1], "image 2"
    with pytest.raises(InputError, match=r"snli_ve_train\.jsonl: line 1: its annotators disagree; nor can any other"):
        _samples(_write(tmp_path, train=[_pair("1", 1, "-")]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (_pair("1", 1, "maybe"), "key 'gold_label' is 'maybe', expected .*entailment, neutral, contradiction"),
        (_pair("1", 1, gold_label=None), "key 'gold_label' is None, expected str"),
        (_pair("1", 1, sentence2=3), "key 'sentence2' is 3, expected str"),
        (_pair("1", 1, sentence2="\ud800"), "text .* is no valid Unicode"),
        (_pair("1", 1, pairID=None), "key 'pairID' is None, expected str"),
        (_pair("1", 1, Flickr30K_ID=1), "key 'Flickr30K_ID' is 1, expected str"),
        (_pair("../1", 1), "key 'Flickr30K_ID' is '../1', expected .*number"),
        ({"Flikr30kID": "a.jpg"}, "key 'Flikr30kID' is 'a.jpg', expected the number of an image"),
        ({}, "key 'Flickr30K_ID' or 'Flikr30kID' is missing"),
        ("[1]", r"is \[1\], expected an object"),
    ],
)
def test_what_does_not_fit_is_lost_alone(tmp_path: Path, line: Any, message: str) -> None:
    (sample,), faults = _faults(_write(tmp_path, train=[_pair("1", 0), line]))
    assert [question.id for question in sample.record.questions] == ["1.jpg#0r0"]
    assert re.search(rf"snli_ve_train\.jsonl: line 2: {message}", faults[0][1])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": ', "broken JSON"),
        ("[" * 100_000, "broken JSON"),
        ('{"a": ' + "9" * 5000 + "}", "broken JSON"),
        (" " * (2**20 + 1), "longer than 1048576 bytes, expected a pair a line"),
    ],
)
def test_what_is_no_line_of_such_a_file_is_named(tmp_path: Path, line: Any, message: str) -> None:
    root = _write(tmp_path, train=[_pair("1", 0), line])
    with pytest.raises(InputError, match=rf"snli_ve_train\.jsonl: line 2: {message}") as caught:
        _samples(root)
    assert "\n" not in str(caught.value)


def test_a_file_is_read_a_line_at_a_time(tmp_path: Path) -> None:
    root = _write(tmp_path, train=[_pair("1", 0), _pair("1", 1, "maybe"), "broken"])
    with pytest.raises(InputError, match="line 3: broken JSON"):
        _samples(root)


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path: Path) -> None:
    root = _write(tmp_path, train=[])
    with (root / "snli_ve_train.jsonl").open("wb") as stream:
        stream.truncate(2**26)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="line 1: longer than 1048576 bytes"):
            _samples(root)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of snli_ve_train\.jsonl, .*change --root"):
        _samples(tmp_path)
    root = _write(tmp_path, train=[_pair("1", 1)])
    with pytest.raises(InputError, match="--partition unc: snli_ve has one partition only"):
        _samples(root, partition="unc")
    with pytest.raises(InputError, match=r"elsewhere: no such folder; .*--images"):
        _samples(root, images=tmp_path / "elsewhere")
    (root / "flickr30k_images").rmdir()
    with pytest.raises(InputError, match=r"flickr30k_images: no such folder; .*--images"):
        _samples(root)


def test_from_the_files_to_a_verified_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _write(tmp_path / "raw", train=[_pair("1", 1), _pair("1", 2)], dev=[_pair("2", 1), _pair("3", 1)])
    for number in (1, 2):
        Image.new("RGB", (24 + number, 16), (number, 0, 0)).save(root / "flickr30k_images" / f"{number}.jpg")
    out = tmp_path / "set"
    build = ["shards", "build", "snli_ve", "--root", str(root), "--out", str(out), "--json"]
    assert cli.main(build) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["samples"], result["questions"], result["quarantined"]) == (2, 3, 1)
    manifest = Manifest.open(out)
    assert manifest.read_record(0).questions[1].answer == "neutral"
    assert (manifest.read_record(1).width, manifest.read_record(1).splits) == (26, ("val",))
    assert cli.main(["shards", "verify", str(out), "--full"]) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert cli.main(build) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
