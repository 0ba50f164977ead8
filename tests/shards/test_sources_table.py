"""Own tables: expressions and questions of own pictures, in whichever format, order and number of tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from laconvnet.shards import sources
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Region
from laconvnet.shards.sets.verify import verify
from laconvnet.shards.sources.table import sorting
from tests.shards.faulty import HEIGHT, TRIANGLE, WIDTH, built, draw, texts
from tests.shards.tables import Row, row, write

BOX = (1.0, 2.0, 10.0, 20.0)
SQUARE = [5.0, 5.0, 20.0, 5.0, 20.0, 20.0, 5.0, 20.0]


def samples(root: Path, **options: Any) -> list[RawSample]:
    given = {"images": None, "splits": None, "partition": None, **options}
    return list(sources.get("table").samples(root, **given))


@pytest.mark.parametrize("name", ["own.csv", "own.tsv", "own.jsonl", "own.parquet"])
def test_a_table_becomes_a_set(tmp_path: Path, name: str) -> None:
    rows = [row("b.jpg", " the  left one "), row("in/a.jpg", "a dog", category="dog"), row("b.jpg", "the right one")]
    draw(tmp_path / "pictures" / "in", "a.jpg")
    draw(tmp_path / "pictures", "b.jpg")
    manifest, quarantine = built("table", write(tmp_path / name, rows), tmp_path / "pictures")
    assert quarantine == []
    first = 1 if name.endswith(("jsonl", "parquet")) else 2
    assert texts(manifest) == {
        f"own-{first}": "the left one",
        f"own-{first + 1}": "a dog",
        f"own-{first + 2}": "the right one",
    }
    assert manifest.samples["key"].to_pylist() == ["table-b_jpg", "table-in_a_jpg"]
    assert manifest.samples["file_name"].to_pylist() == ["b.jpg", "in/a.jpg"]
    assert manifest.samples["splits"].to_pylist() == [["train"], ["train"]]
    assert manifest.read_record(1).regions == (
        Region(f"own-{first + 1}", "train", (BOX,), (Expression(f"own-{first + 1}", "a dog"),), None, "dog"),
    )
    verify(manifest.folder, full=True, progress=False)


@pytest.mark.parametrize(
    ("cells", "boxes"),
    [
        ({"box": "[1, 2, 10, 20]"}, (BOX,)),
        ({"box": "1 2 10 20"}, (BOX,)),
        ({"box": "1, 2, 10, 20"}, (BOX,)),
        ({"box": "(1.0, 2.0, 10.0, 20.0)"}, (BOX,)),
        ({"box": "[ 1.  2. 10. 20.]"}, (BOX,)),
        ({"box": "[ ]"}, ()),
        ({"box": "[0.5, 0.25, 0.75, 0.25]"}, ((0.5, 0.25, 0.75, 0.25),)),  # not within one pixel
        ({"box": "[-0.5, 0, 1.5, 1]"}, ((-0.5, 0.0, 1.5, 1.0),)),
        ({"box": "[0, 0, 1, 1]"}, ((0.0, 0.0, 1.0, 1.0),)),
        ({"box": "[[1, 2, 10, 20], [3, 4, 5, 6.5]]"}, (BOX, (3.0, 4.0, 5.0, 6.5))),
        ({"box": "[]"}, ()),
        ({"x": 1, "y": 2, "w": 10, "h": 20}, (BOX,)),
        ({"x": 1, "y": 2, "width": 10, "height": 20}, (BOX,)),
        ({"x1": 1, "y1": 2, "x2": 11, "y2": 22}, (BOX,)),
        ({"xmin": 1, "ymin": 2, "xmax": 11, "ymax": 22}, (BOX,)),
    ],
)
def test_the_forms_of_a_box(tmp_path: Path, cells: dict[str, Any], boxes: tuple[Any, ...]) -> None:
    (sample,) = samples(write(tmp_path / "own.csv", [{"picture": "a.jpg", "text": "it"} | cells], "a.jpg"))
    assert sample.record.regions[0].boxes == boxes
    assert sample.faults == ()


def test_the_forms_of_a_mask(tmp_path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[10:30, 20:25] = 255
    for name, image in {
        "gray.png": Image.fromarray(pixels),
        "rgb.png": Image.fromarray(np.stack([pixels * 0, pixels // 255, pixels * 0], axis=2)),
        "bit.png": Image.fromarray(pixels > 0),
        "palette.png": Image.fromarray(pixels // 255).convert("P"),
    }.items():
        (tmp_path / "masks").mkdir(exist_ok=True)
        image.save(tmp_path / "masks" / name)
    run_lengths = coco_mask.encode(np.asfortranarray(pixels > 0, np.uint8))
    compressed = {"size": [HEIGHT, WIDTH], "counts": run_lengths["counts"].decode()}
    before = 20 * HEIGHT + 10
    runs = [before, *[20, HEIGHT - 20] * 4, 20]
    plain = {"size": [HEIGHT, WIDTH], "counts": [*runs, HEIGHT * WIDTH - sum(runs)]}
    masks: list[Any] = [f"masks/{name}.png" for name in ("gray", "rgb", "bit", "palette")]
    masks += [compressed, plain, [[20, 10, 25, 10, 25, 30, 20, 30]], [20, 10, 25, 10, 25, 30, 20, 30]]
    rows = [{"picture": "a.jpg", "text": "it", "mask": mask} for mask in masks]
    (sample,) = samples(write(tmp_path / "own.csv", rows, "a.jpg"))
    assert sample.faults == ()
    for region in sample.record.regions:
        np.testing.assert_array_equal(coco_mask.decode(region.mask), pixels > 0)
        assert region.boxes == ((20.0, 10.0, 5.0, 20.0),), "that around the mask"
    assert (sample.record.width, sample.record.height) == (0, 0)


def test_no_polygon_is_no_mask(tmp_path: Path) -> None:
    for name in ("own.csv", "own.parquet"):
        (sample,) = samples(write(tmp_path / name, [row(mask=[])], "a.jpg"))
        assert sample.faults == ()
        assert sample.record.regions[0].mask is None


def test_polygons_are_drawn_on_the_picture_as_it_is_or_is_told(tmp_path: Path) -> None:
    rows = [row(name, mask=[SQUARE]) for name in ("a.jpg", "gone.jpg")]
    write(tmp_path / "own.csv", rows, "a.jpg")
    a, gone = samples(tmp_path / "own.csv")
    assert a.record.regions[0].mask["size"] == [HEIGHT, WIDTH]  # type: ignore[index]
    assert gone.record.regions[0].mask["size"] == [20, 20], "nobody knows"  # type: ignore[index]
    (dot,) = samples(write(tmp_path / "dot.csv", [row("gone.jpg", mask=[[0, 0, 0.5, 0, 0.5, 0.5]])]))
    assert dot.record.regions[0].mask["size"] == [1, 1]  # type: ignore[index]
    unseen, _ = samples(tmp_path / "own.csv", with_images=False)
    assert unseen.record.regions[0].mask["size"] == [20, 20]  # type: ignore[index]
    told = [row("gone.jpg", mask=[SQUARE], image_width="100.0", image_height=90)]
    (sample,) = samples(write(tmp_path / "told.csv", told))
    assert sample.record.regions[0].mask["size"] == [90, 100]  # type: ignore[index]
    assert (sample.record.width, sample.record.height) == (100, 90)


def test_rows_of_one_region_share_box_and_mask(tmp_path: Path) -> None:
    rows = [
        row("a.jpg", "one", region="r", mask=TRIANGLE),
        row("b.jpg", "other", region="r", box=(5, 5, 5, 5)),
        row("a.jpg", "two", region="r", box=(1.0, 2, 10, 20), mask=[*TRIANGLE[0]]),
        row("a.jpg", "three", region="r", box=None, category="cat"),
        row("a.jpg", "alone", region=None, box=(9, 9, 9, 9), id="r"),
    ]
    a, b = samples(write(tmp_path / "own.jsonl", rows, "a.jpg", "b.jpg"))
    assert [(region.id, [one.text for one in region.expressions]) for region in a.record.regions] == [
        ("r", ["one", "two", "three"]),
        ("r", ["alone"]),
    ]
    assert a.record.regions[0].boxes == (BOX,)
    assert a.record.regions[0].mask is not None
    assert a.record.regions[0].category == "cat"
    assert [region.id for region in b.record.regions] == ["r"], "another picture's region of that name"
    assert a.faults == b.faults == ()


def test_questions_and_their_answers(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"picture": "a.jpg", "question": "How many?", "answer": "2"},
        {"picture": "a.jpg", "question": "Who?", "answers": ["b", "a", "a"]},
        {"picture": "a.jpg", "question": "Where?", "answers": "here| there |here|"},
        {"picture": "a.jpg", "question": "Why?", "answer": "so", "answers": "no|so", "id": "q7"},
    ]
    (sample,) = samples(write(tmp_path / "val.csv", rows, "a.jpg"))
    assert sample.record.questions == (
        Question("val-2", "val", "How many?", "2"),
        Question("val-3", "val", "Who?", "a", ("b", "a", "a")),
        Question("val-4", "val", "Where?", "here", ("here", "there", "here")),
        Question("q7", "val", "Why?", "so", ("no", "so")),
    )
    hidden = [{"picture": "a.jpg", "question": "How many?"}]
    (sample,) = samples(write(tmp_path / "test.csv", hidden))
    assert sample.record.questions == (Question("test-2", "test", "How many?"),)


def test_expressions_and_questions_in_one_table(tmp_path: Path) -> None:
    asked = {"picture": "a.jpg", "question": "How many?", "answer": "2"}
    manifest, quarantine = built("table", write(tmp_path / "own.csv", [row(), asked], "a.jpg"))
    assert quarantine == []
    assert manifest.examples["kind"].to_pylist() == ["expression", "question"]


def test_the_case_of_the_common_splits_does_not_matter(tmp_path: Path) -> None:
    """All that is not train is held out, so that Train must not be another split."""
    names = {"a.jpg": "Train", "b.jpg": "VAL", "c.jpg": "testA"}
    table = write(tmp_path / "own.csv", [row(picture, split=split) for picture, split in names.items()], *names)
    assert [one.record.splits for one in samples(table)] == [("train",), ("val",), ("testA",)]
    assert [one.record.splits for one in samples(table, splits=["train"])] == [("train",)]


def test_splits_by_column_by_name_and_none(tmp_path: Path) -> None:
    rows = [row("a.jpg", "one", split="train"), row("a.jpg", "two", split="testA"), row("b.jpg", split=" testA ")]
    write(tmp_path / "one" / "own.csv", rows)
    a, b = samples(tmp_path / "one" / "own.csv")
    assert [region.split for region in a.record.regions] == ["train", "testA"]
    assert b.record.splits == ("testA",)
    (b, *_) = samples(tmp_path / "one", splits=["train"])
    assert b.record.splits == ("train",)
    with pytest.raises(InputError, match=r"--split val: .*one has no such split; expected one of testA, train"):
        samples(tmp_path / "one", splits=["val"])
    words = ("own", "train"), ("Val", "val"), ("test_2", "test"), ("dev", "dev"), ("Train2014", "train")
    for name, split in (*words, ("train-v2", "train"), ("Tests", "Tests"), ("testA", "testA")):
        (sample,) = samples(write(tmp_path / name / f"{name}.csv", [row()]))
        assert sample.record.splits == (split,)
    write(tmp_path / "two" / "train.csv", [row("b.jpg"), row("a.jpg")])
    write(tmp_path / "two" / "mine.parquet", [row("a.jpg", "second")])
    write(tmp_path / "two" / "val.jsonl", [row("a.jpg", split="train", id="x")])
    (tmp_path / "two" / "notes.txt").touch()
    a, b = samples(tmp_path / "two")
    assert [(region.split, region.id) for region in a.record.regions] == [
        ("mine", "mine-1"),
        ("train", "train-3"),
        ("train", "x"),
    ]
    assert b.record.splits == ("train",)
    (a,) = samples(tmp_path / "two", splits=["mine"])
    assert [region.id for region in a.record.regions] == ["mine-1"]


def test_rows_of_a_picture_may_stand_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the tables are larger than what is held in memory."""
    names = [f"{number * 7 % 10}.jpg" for number in range(60)]
    write(tmp_path / "own.jsonl", [row(name, f"text {number}") for number, name in enumerate(names)])
    monkeypatch.setattr("laconvnet.shards.sources.table.formats._BATCH_ROWS", 7)
    held = samples(tmp_path)
    monkeypatch.setattr(sorting.Sorter.__init__, "__defaults__", (1,))
    spilled = samples(tmp_path)
    assert held == spilled
    assert [sample.record.file_name for sample in held] == [f"{number}.jpg" for number in range(10)]
    told = {sample.record.file_name: [one.expressions[0].text for one in sample.record.regions] for sample in held}
    assert told == {
        name: [f"text {number}" for number, other in enumerate(names) if other == name] for name in set(names)
    }


def test_pictures_of_any_name_have_keys_of_their_own(tmp_path: Path) -> None:
    names = ["猫.jpg", "狗.jpg", "a b.jpg", "a_b.jpg", "x" * 100 + "1.jpg", "x" * 100 + "2.jpg", "./c.jpg"]
    manifest, quarantine = built("table", write(tmp_path / "own.csv", [row(name) for name in names], *names))
    assert quarantine == []
    assert len(manifest.samples) == len(names)
    assert "c.jpg" in manifest.samples["file_name"].to_pylist()


def test_columns_that_mean_nothing_are_warned_of_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples(write(tmp_path / "own.csv", [row(score=3, worker="me") | {"": 0}], "a.jpg"))
    (record,) = caplog.records
    named = "score, worker, one without a name"
    assert record.getMessage() == f"{tmp_path / 'own.csv'}: columns that mean nothing here: {named}"


def test_what_is_no_table_is_told_before_anything_is_read(tmp_path: Path) -> None:
    write(tmp_path / "own.csv", [row()])
    with pytest.raises(InputError, match=r"nowhere: no such file or folder; .*--root"):
        samples(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no table there; .*\.csv, \.tsv, \.jsonl"):
        samples(tmp_path / "empty")
    with pytest.raises(InputError, match=r"gone: no such folder; .* change --images"):
        samples(tmp_path / "own.csv", images=tmp_path / "gone")
    assert len(samples(tmp_path / "own.csv", images=tmp_path / "gone", with_images=False)) == 1
    with pytest.raises(InputError, match="--partition unc: table has one partition only"):
        samples(tmp_path / "own.csv", partition="unc")
    (tmp_path / "val.csv").write_text("picture,text,box\n")
    for root in (tmp_path / "val.csv", tmp_path):
        with pytest.raises(InputError, match=r"val\.csv: holds no rows"):
            samples(root)


def test_the_help_names_every_column() -> None:
    from laconvnet.shards.sources.table.columns import NAMES

    told = json.dumps(sources.get("table").files)
    assert [name for names in NAMES.values() for name in names if name not in told] == []
