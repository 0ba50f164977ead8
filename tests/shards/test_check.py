"""`shards check`: what a build would find, with every source, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laconvnet.launch.cli import main
from laconvnet.shards import sources
from laconvnet.shards.build.check import Checked, check
from laconvnet.shards.errors import BuildError, InputError
from laconvnet.shards.format.ledger import faults_of
from tests.messages import tells
from tests.shards.faulty import REFS, annotation, built, draw, ref, refer
from tests.shards.tables import row, write
from tests.shards.test_faults_flickr30k import SENTENCES, flickr, thing, xml
from tests.shards.test_faults_questions import (
    answered,
    asked,
    clevr,
    clevr_ref,
    pair,
    scene,
    snli,
    spoken,
    vqa,
    vqav2,
)
from tests.shards.test_faults_visual_genome import genome, region


def own(root: Path) -> Path:
    rows = [row("1.jpg"), row("2.jpg", None), row("3.jpg", box=(70, 2, 3, 4), image_width=64, image_height=48)]
    write(root / "train.csv", rows)
    draw(root / "images", "1.jpg", "2.jpg", "3.jpg")
    return root


def coco(root: Path) -> Path:
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48} for number in (1, 2)]
    root.mkdir()
    given = [annotation(7, 1), annotation(8, 2, bbox=None, iscrowd=1), annotation(9, 1, bbox=[70, 1, 2, 2])]
    categories = [{"id": 1, "name": "dog"}]
    text = json.dumps({"images": images, "annotations": given, "categories": categories})
    (root / "own.json").write_text(text)
    draw(root / "images", "1.jpg", "2.jpg")
    return root


def simrec(root: Path) -> Path:
    items = [
        {"iid": number, "bbox": [5, 5, 9, 9], "refs": refs, "mask_id": number}
        for number, refs in ((1, ["x"]), (2, [" "]))
    ]
    (root / "anns").mkdir(parents=True)
    (root / "anns" / "refcoco.json").write_text(json.dumps({"val": [*items, {"iid": "3"}]}))
    draw(root / "images" / "train2014", *(f"COCO_train2014_{number:012d}.jpg" for number in (1, 2)))
    return root


def refcoco(root: Path, name: str = "refcoco", partition: str = "unc") -> Path:
    refs = [*REFS, ref(4, 1, sentences=[{"sent_id": 400, "sent": " "}], ann_id=40)]
    annotations = [
        annotation(10, 1),
        annotation(20, 2, segmentation=[]),
        annotation(30, 3),
        annotation(40, 1, bbox=[70, 1, 2, 2]),
    ]
    return refer(root, refs, annotations, name=name, partition=partition)


def grefcoco(root: Path) -> Path:
    refcoco(root, "grefcoco")
    sentences = [{"sent_id": 1, "sent": "both"}]
    refs = [{"ref_id": 1, "image_id": 1, "split": "val", "sentences": sentences, "ann_id": [10, 40]}]
    (root / "grefcoco" / "grefs(unc).json").write_text(json.dumps([*refs, refs[0] | {"ref_id": 2, "ann_id": [10]}]))
    return root


# Small data of each source, with faults; those with "images" in their root are given that folder.
MADE: dict[str, Callable[[Path], Path]] = {
    "refcoco": refcoco,
    "grefcoco": grefcoco,
    "referit": lambda root: refcoco(root, "refclef", "berkeley"),
    "visual_genome": lambda root: genome(
        root, region_descriptions=[region(101), region(150, x=70), region(151, x=None)]
    ),
    "flickr30k": lambda root: flickr(root, SENTENCES, xml(thing(1, 1, 1, 9, 9), thing(2, 100, 1, 110, 9))),
    "clevr": lambda root: clevr(root, [asked(0, 1), asked(1, 1, answer=3), asked(2, 2)]),
    "clevr_humans": lambda root: clevr(root, [asked(0, 1), asked(1, 2, question=" ")], "CLEVR-Humans-val.json"),
    "clevr_ref+": lambda root: clevr_ref(
        root, [spoken(1, 0), spoken(2, 0), spoken(2, 5)], [scene(1, 64, 48), scene(2, 30, 20)], (64, 48), (30, 20)
    ),
    "vqav2": lambda root: vqav2(root, [vqa(1, 1), vqa(2, 2), vqa(3, 2)], [answered(1, 1), answered(2, 2)]),
    "snli_ve": lambda root: snli(root, [pair(1, "1"), pair(2, "2", gold_label="-"), pair(3, "2", gold_label="?")]),
    "table": own,
    "coco": coco,
    "simrec": simrec,
}
# The image folders of the layouts.
FOLDERS = ("images", "VG_100K", "flickr30k-images", "flickr30k_images", "train2014", "val2014")


def checked(name: str, root: Path, images: Path | None = None, with_images: bool = True) -> Checked:
    options: dict[str, Any] = {"splits": None, "partition": None, "images": images, "with_images": with_images}
    samples = sources.get(name).samples(root, **options)
    return check(samples, root, with_images=with_images, progress=False)


def images_of(name: str, root: Path) -> Path | None:
    return root / "images" if name in ("refcoco", "grefcoco", "referit", "table", "coco") else None


def test_every_source_is_looked_at() -> None:
    alike = {"refcoco+": "refcoco", "refcocog": "refcoco"}
    assert {alike.get(name, name) for name in sources.SOURCES} == MADE.keys()


@pytest.mark.parametrize("name", MADE)
def test_the_check_finds_what_the_build_loses(tmp_path: Path, name: str) -> None:
    root = MADE[name](tmp_path / "raw")
    images = images_of(name, root)
    before = sorted(tmp_path.rglob("*"))
    found = checked(name, root, images)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
    manifest, quarantine = built(name, root, images)
    assert found.ledger == manifest.meta["ledger"]
    assert found.quarantine.to_pylist() == quarantine
    assert quarantine


@pytest.mark.parametrize("name", MADE)
def test_annotations_alone_need_no_image(tmp_path: Path, name: str) -> None:
    """Where these tell the size of an image, boxes are held against it."""
    root = MADE[name](tmp_path / "raw")
    whole = checked(name, root, images_of(name, root))
    for folder in FOLDERS:
        shutil.rmtree(root / folder, ignore_errors=True)
    with pytest.raises(InputError, match="--images"):
        checked(name, root, images_of(name, root))
    found = checked(name, root, images_of(name, root), with_images=False)
    assert found.ledger == whole.ledger
    assert [one | {"file": ""} for one in found.quarantine.to_pylist()] == [
        one | {"file": ""} for one in whole.quarantine.to_pylist()
    ]


def test_without_progress_nothing_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checked("table", own(tmp_path / "raw"), tmp_path / "raw" / "images")
    assert capfd.readouterr().err == ""


def test_images_are_opened_as_the_build_opens_them(tmp_path: Path) -> None:
    root = refcoco(tmp_path / "raw")
    (root / "images" / "1.jpg").write_bytes(b"no image")
    (root / "images" / "3.jpg").unlink()
    found = checked("refcoco", root, root / "images")
    assert found.ledger["val"]["picture"]["lost"] == {"image": 1}
    assert found.ledger["train"]["picture"] == {
        "read": 3,
        "kept": 0,
        "lost": {"image": 1, "missing": 1, "polygon": 1},
        "changed": {},
    }
    assert checked("refcoco", root, root / "images", with_images=False).ledger["val"]["picture"]["lost"] == {}


def test_entries_that_nobody_accounts_for_end_the_check(tmp_path: Path) -> None:
    root = refcoco(tmp_path / "raw")
    samples = sources.get("refcoco").samples(root, images=root / "images", splits=None, partition=None)
    assert samples.account is not None
    samples.account.count("train", expression=1)
    with pytest.raises(BuildError, match=r"raw: entries are unaccounted for.*split train"):
        check(samples, root, progress=False)


def test_the_command_lists_the_first_faults_of_each_cause(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [row("a.jpg"), *[row("a.jpg", None)] * 3, row("a.jpg", box=(60, 5, 9, 9)), row("gone.jpg")]
    root = write(tmp_path / "own.csv", rows, "a.jpg")
    command = ["shards", "check", "table", "--root", str(root)]
    assert main([*command, "--faults", "2"]) == 1
    said = capfd.readouterr()
    assert said.err == "", "short work tells of no progress"
    lines = said.out.splitlines()
    (account,) = (line.split() for line in lines if line.startswith("train") and " expression " in line)
    assert account == ["train", "expression", "6", "2", "4", "blank", "3,", "missing", "1"]
    at = lines.index("blank: 3")
    assert lines[at + 1].startswith(f"  region own-3: {root}: row 3: the expression is empty")
    assert lines[at + 2].startswith("  region own-4: ")
    assert lines[at + 3] == "  and 1 more"
    assert "clipped: 1 (kept)" in lines
    (missing,) = (line for line in lines if line.startswith("  picture"))
    assert tells(missing, "picture gone.jpg", f"{tmp_path / 'gone.jpg'}: missing: No such file")
    assert main([*command, "--annotations-only", "--split", "train"]) == 1
    assert "missing" not in capfd.readouterr().out
    assert main([*command, "--json"]) == 1
    told = json.loads(capfd.readouterr().out)
    assert [one["cause"] for one in told["faults"]].count("blank") == 3
    assert [one["cause"] for one in told["changed"]] == ["clipped"]
    assert told["ledger"]["train"]["picture"]["lost"] == {"missing": 1}


def test_the_exit_code_is_0_where_nothing_is_lost_by_a_fault(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "own.csv", [row("a.jpg"), row("a.jpg", box=(60, 5, 9, 9))], "a.jpg")
    assert main(["shards", "check", "table", "--root", str(root)]) == 0
    assert "clipped 1 (kept)" in capfd.readouterr().out
    left_out = coco(tmp_path / "coco")
    given = json.loads((left_out / "own.json").read_text())
    given["annotations"] = given["annotations"][:2]
    (left_out / "own.json").write_text(json.dumps(given))
    assert main(["shards", "check", "coco", "--root", str(left_out), "--images", str(left_out / "images")]) == 0
    assert "crowd 1" in capfd.readouterr().out
    assert main(["shards", "check", "table", "--root", str(tmp_path / "gone")]) == 2
    assert main(["shards", "check", "table", "--root", str(root), "--faults", "-1"]) == 2


def test_a_control_character_of_a_fault_is_written_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "own.csv", [row("a.jpg"), row("a.jpg", box=None, region="r\x1b[2J\n")], "a.jpg")
    assert main(["shards", "check", "table", "--root", str(root)]) == 1
    shown = capfd.readouterr().out
    assert "\x1b" not in shown
    assert "region r\\x1b[2J: " in shown


def test_faults_are_neither_changes_nor_rules() -> None:
    import pyarrow as pa

    table = pa.table({"cause": ["crowd", "box", "clipped"], "changed": [False, False, True]})
    assert faults_of(table)["cause"].to_pylist() == ["box"]
