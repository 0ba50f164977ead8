"""Builds: the same bytes at any worker count; what goes to quarantine; what is refused; who can read it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from laconvnet.shards.build import plan as plan_module
from laconvnet.shards.build.builder import build, build_task
from laconvnet.shards.build.plan import plan
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Expression, Question, Record, Region
from tests.messages import tells

ARGS: dict[str, Any] = {"source": "toy", "licence": "CC0", "options": {"split": ("train",)}, "progress": False}


def region(name: str, *boxes: tuple[float, float, float, float], **fields: Any) -> Region:
    return Region(name, "train", boxes, (Expression(f"{name}e", f"the thing {name}"),), **fields)


def toy(folder: Path, count: int = 12) -> list[RawSample]:
    """Small images of differing sizes, one of them broken and one missing."""
    folder.mkdir(exist_ok=True)
    samples = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        noise = np.random.default_rng(number).integers(0, 255, (24 + number, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        question = Question(
            f"q{number}", "val" if number % 3 == 0 else "train", "how many?", "2", ("2", "two"), "count"
        )
        regions = (region(f"r{number}", (1, 2, 10.5, 12)),)
        record = Record("toy", str(number), path.name, 32, 24 + number, "CC0", regions, (question,), None)
        samples.append(RawSample(record, path))
    samples[5].image.write_bytes(samples[5].image.read_bytes()[:700])
    samples[7].image.unlink()
    return samples


def hashes(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}


def quarantine(out: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(out / "quarantine.parquet").to_pylist())


def test_the_same_bytes_at_any_number_of_workers(tmp_path: Path) -> None:
    samples = toy(tmp_path / "pictures")
    for workers in (1, 3):
        build(samples, tmp_path / f"out{workers}", **ARGS, shard_bytes=3000, workers=workers)
    first = hashes(tmp_path / "out1")
    assert first == hashes(tmp_path / "out3")
    assert [name for name in first if name.endswith(".tar")] == [
        f"shard-{n:06d}.tar" for n in range((len(first) - 7) // 2)
    ]
    assert len(first) >= 4 * 2 + 7
    assert {"manifest.parquet", "manifest.arrow", "examples.parquet", "examples.arrow", "counts.arrow"} < set(first)
    assert {"pictures.arrow", "quarantine.parquet"} < set(first)


def test_rows_lead_to_the_bytes_and_say_what_the_records_say(tmp_path: Path) -> None:
    samples = toy(tmp_path / "pictures")
    manifest = build(samples, tmp_path / "out", **ARGS, shard_bytes=3000)
    used = [sample for number, sample in enumerate(samples) if number not in (5, 7)]
    assert manifest.samples["key"].to_pylist() == [sample.record.key for sample in used]
    for row, sample in enumerate(used):
        assert manifest.read_record(row) == sample.record
        assert manifest.read_image(row) == sample.image.read_bytes()
    assert manifest.samples["splits"].to_pylist()[:2] == [["train", "val"], ["train"]]
    examples = manifest.examples.to_pylist()
    assert [example["kind"] for example in examples] == ["expression", "question"] * len(used)
    assert [example["sample"] for example in examples] == [row for row in range(len(used)) for _ in range(2)]
    assert examples[2] == {
        **{"sample": 1, "kind": "expression", "split": "train", "region": 0, "item_id": "r1e", "text": "the thing r1"},
        **{"answer": None, "answers": [], "family": None, "x": 1, "y": 2, "w": 10.5, "h": 12, "has_mask": False},
    }
    question = examples[3]
    assert (question["region"], question["answer"], question["answers"]) == (-1, "2", ["2", "two"])
    assert np.isnan([question[name] for name in "xywh"]).all()
    assert manifest.select("val", "question").tolist() == [1, 7, 11, 15]  # images 0, 3, 6, 9
    assert manifest.meta["options"] == {"split": ["train"]}
    assert manifest.meta["sets"] == [{"name": "toy", "weight": 1.0}]
    assert manifest.meta["quarantined"] == 2


def test_quarantine_names_file_key_and_reason_and_the_build_goes_on(tmp_path: Path) -> None:
    samples = toy(tmp_path / "pictures")
    wrong_size = dataclasses.replace(samples[0].record, width=33)
    samples[0] = dataclasses.replace(samples[0], record=wrong_size)
    samples[9].image.unlink()
    samples[9].image.mkdir()
    build(samples, tmp_path / "out", **ARGS)
    found = {row["key"]: row for row in quarantine(tmp_path / "out")}
    assert set(found) == {"toy-0", "toy-5", "toy-7", "toy-9"}
    assert found["toy-9"]["reason"] == "missing: not a regular file"
    assert tells(found["toy-7"]["reason"], "missing", "No such file")
    assert found["toy-5"]["file"] == str(tmp_path / "pictures" / "5.jpg")
    assert found["toy-5"]["reason"] == "cannot be decoded: Premature end of JPEG file"
    assert tells(found["toy-0"]["reason"], "33x24", "32x24")


def test_unknown_sizes_are_filled_in_and_boxes_fitted(tmp_path: Path) -> None:
    sample = toy(tmp_path / "pictures", 8)[0]
    mask = {"size": [24, 32], "counts": "`"}
    regions = (
        region("over", (-2.5, 3, 10, 100)),
        region("inside", (0, 0, 32, 24), mask=mask),
        region("flat", (1, 1, 0, 5)),
        region("outside", (32, 0, 4, 4)),
        region("half", (1, 1, 2, 2), (1, 50, 2, 2)),
        region("nan", (float("nan"), 1, 2, 2)),
        region("mask", (1, 1, 2, 2), mask={"size": [32, 24], "counts": "`"}),
        region("none"),
        Region("silent", "train", ((1, 1, 2, 2),)),
    )
    record = dataclasses.replace(sample.record, width=0, height=0, regions=regions, questions=())
    manifest = build([RawSample(record, sample.image)], tmp_path / "out", **ARGS)
    stored = manifest.read_record(0)
    assert (stored.width, stored.height) == (32, 24)
    assert {part.id: part.boxes for part in stored.regions} == {
        "over": ((0, 3, 7.5, 21),),
        "inside": ((0, 0, 32, 24),),
        "none": (),
        "silent": ((1, 1, 2, 2),),
    }
    examples = manifest.examples.to_pylist()
    assert [(row["item_id"], row["region"], row["has_mask"]) for row in examples] == [
        ("overe", 0, False),
        ("insidee", 1, True),
        ("nonee", 2, False),
    ]
    assert np.isnan(examples[2]["x"])
    rows = quarantine(tmp_path / "out")
    (clipped,) = (row for row in rows if row["changed"])
    assert (clipped["kind"], clipped["region"], clipped["cause"]) == ("box", "over", "clipped")
    assert tells(clipped["reason"], "[-2.5, 3, 10, 100]", "[0, 3, 7.5, 21]", "32x24")
    reasons = {row["region"]: row["reason"] for row in rows if not row["changed"]}
    assert manifest.meta["quarantined"] == len(reasons)
    assert set(reasons) == {"flat", "outside", "half", "nan", "mask"}
    assert "no area" in reasons["flat"]
    assert "[1, 50, 2, 2] lies outside the image of 32x24" in reasons["half"]
    assert "not finite" in reasons["nan"]
    assert "mask of size [32, 24]" in reasons["mask"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_source_is_read_as_a_stream(tmp_path: Path, workers: int) -> None:
    samples = toy(tmp_path / "pictures")
    out = tmp_path / "out"
    finished_at_pull = []

    def stream() -> Iterator[RawSample]:
        for sample in samples:
            # Commits, not tars: that of an image that cannot be used is there for a moment, and goes.
            finished_at_pull.append(len(list(out.glob("parts/shard-*.samples.parquet"))))
            yield sample

    build(stream(), out, **ARGS, shard_bytes=1, workers=workers)
    assert finished_at_pull == sorted(finished_at_pull)
    # Of 10 images before the last, one is still held; a backlog is one more than the workers.
    assert finished_at_pull[-1] >= 9 - workers - 1


def test_shards_are_cut_by_size_on_disk_and_by_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, out = toy(tmp_path / "pictures"), tmp_path / "out"
    build(samples, out, **ARGS, shard_bytes=3000)
    expected = plan(samples, 3000)
    assert expected.shards == len(list(out.glob("shard-*.tar"))) > 3
    assert (expected.samples, expected.missing) == (11, 1)
    assert expected.bytes == sum(sample.image.stat().st_size for sample in samples if sample.image.exists())
    assert plan(samples, 10**9).shards == 1
    assert plan(samples, 1).shards == 11
    assert (plan_module.SHARD_BYTES, plan_module.SHARD_SAMPLES) == (256 << 20, 10_000), "or a rebuilt set is another"
    monkeypatch.setattr(plan_module, "SHARD_SAMPLES", 4)
    assert plan(samples).shards == 3


def test_tasks_write_shards_that_the_build_publishes(tmp_path: Path) -> None:
    samples = toy(tmp_path / "pictures")
    build(samples, tmp_path / "whole", **ARGS, shard_bytes=3000)
    out = tmp_path / "out"
    for number in (2, 1):
        build_task(samples, out, **ARGS, shard_bytes=3000, task=(number, 2))
    before = {path.name: path.stat().st_ino for path in out.glob("shard-*")}
    build(samples, out, **ARGS, shard_bytes=3000)
    assert {path.name: path.stat().st_ino for path in out.glob("shard-*")} == before
    assert hashes(out) == hashes(tmp_path / "whole")
    with pytest.raises(InputError, match="task 3/2"):
        build_task(samples, tmp_path / "other", **ARGS, task=(3, 2))


def test_a_finished_build_is_returned_and_one_of_other_options_refused(tmp_path: Path) -> None:
    samples, out = toy(tmp_path / "pictures"), tmp_path / "out"
    build(samples, out, **ARGS)
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.iterdir()}

    def untouched() -> Iterator[RawSample]:
        raise AssertionError("a finished build does not read its source")
        yield

    again = build(untouched(), out, **ARGS)
    assert len(again.samples) == 10
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.iterdir()} == before
    with pytest.raises(InputError, match=r'options \{"split": \["train"\]\}, .* \{"split": "val"\}'):
        build(samples, out, **{**ARGS, "options": {"split": "val"}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda samples: [], "yields no image; check --split"),
        (
            lambda samples: [dataclasses.replace(one, image=Path("/nowhere") / one.image.name) for one in samples],
            r"/nowhere/0.jpg: no such image, .* of 12; .* check --images",
        ),
        (lambda samples: [samples[5]], "5.jpg: cannot be decoded: .*nor is any other"),
    ],
)
def test_mistakes_are_named_and_leave_nothing_behind(tmp_path: Path, change: Any, message: str) -> None:
    samples = change(toy(tmp_path / "pictures"))
    with pytest.raises(InputError, match=message):
        build(samples, tmp_path / "out", **ARGS)
    assert not (tmp_path / "out").exists()


def test_of_images_under_one_key_the_first_stays(tmp_path: Path) -> None:
    """Names that differ in a dot give one key."""
    samples = toy(tmp_path / "pictures")
    samples[1] = dataclasses.replace(samples[1], record=dataclasses.replace(samples[1].record, picture_id="8.1"))
    samples[8] = dataclasses.replace(samples[8], record=dataclasses.replace(samples[8].record, picture_id="8_1"))
    for shard_bytes in (10**6, 1):
        manifest = build(samples, tmp_path / str(shard_bytes), **ARGS, shard_bytes=shard_bytes)
        (row,) = (row for row in quarantine(manifest.folder) if row["cause"] == "duplicate key")
        assert (row["kind"], row["id"], row["file"]) == ("picture", "8_1", str(samples[8].image))
        assert tells(row["reason"], "toy-8_1", "twice", "8.jpg")
        assert manifest.samples["picture_id"].to_pylist().count("8.1") == 1
        train = manifest.meta["ledger"]["train"]
        assert train["picture"]["lost"] == {"duplicate key": 1, "image": 1, "missing": 1}
        assert train["region"] == {"read": 12, "kept": 9, "lost": train["picture"]["lost"], "changed": {}}


def test_foreign_folders_and_silly_numbers_are_refused(tmp_path: Path) -> None:
    samples, out = toy(tmp_path / "pictures"), tmp_path / "out"
    out.mkdir()
    (out / "shard-000000.tar").write_bytes(b"somebody's")
    with pytest.raises(InputError, match="holds shards that no build of this program began"):
        build(samples, out, **ARGS)
    assert (out / "shard-000000.tar").read_bytes() == b"somebody's"
    (out / "shard-000000.tar").unlink()
    (out / "parts").mkdir()
    (out / "parts" / "mine.txt").touch()
    with pytest.raises(InputError, match=r"parts/mine.txt: no file of a build"):
        build(samples, out, **ARGS)
    assert (out / "parts" / "mine.txt").exists()
    with pytest.raises(InputError, match="shard_bytes 0"):
        build(samples, tmp_path / "a", **ARGS, shard_bytes=0)
    with pytest.raises(InputError, match="workers 0"):
        build(samples, tmp_path / "b", **ARGS, workers=0)
    with pytest.raises(InputError, match="not a folder"):
        build(samples, samples[0].image, **ARGS)


def test_two_builds_of_one_folder_do_not_run_at_once(tmp_path: Path) -> None:
    samples, out = toy(tmp_path / "pictures"), tmp_path / "out"

    def nested() -> Iterator[RawSample]:
        yield from samples[:3]
        with pytest.raises(InputError, match="another build is writing here"):
            build(samples, out, **ARGS)
        yield from samples[3:]

    assert len(build(nested(), out, **ARGS).samples) == 10
