"""The tutorials, run from their pages at a small size."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import folders
import pytest
from PIL import Image, ImageDraw

from laconvnet.launch import cli
from tests.docs.pages import DOCS, ROOT, blocks, untold, walk

TUTORIALS = DOCS / "tutorials"
# Steps enough to be stopped among, each of little work; scored once an epoch.
SHORT = """\
base: configs/demo/finetune-rec.yaml
data: {batch: 16}
schedule: {epochs: 4}
validate: {every: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the pages take for the top of a checkout: `configs`, and `raw` with 64 generated training images."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert (
        cli.main(["shards", "generate", "--out", f"{tmp_path}/raw", "--pictures", "64", "--seed", "1", "--json"]) == 0
    )
    return tmp_path


@pytest.mark.slow
def test_refcoco_and_eight_gpus(folder: Path) -> None:
    shown = walk(TUTORIALS / "refcoco.md", folder)
    assert "3 done" in shown
    (scores,) = (folder / "runs/refcoco").glob("eval-val-*/val.json")
    assert 0 <= json.loads(scores.read_text())["acc@0.5"] <= 1
    assert "refcoco" in (folder / "runs/refcoco/report.html").read_text()
    assert (folder / "answer.png").read_bytes().startswith(b"\x89PNG")
    assert not untold(folder / "runs/refcoco", {"val.json", "val.answers.jsonl"})
    built = [file.name for file in (folder / "shards/refcoco").iterdir()]
    assert not [name for name in built if not folders.known(name, folders.SET)]


@pytest.mark.slow
def test_resume_move_and_other_processes(folder: Path) -> None:
    out = f"{folder}/shards/refcoco"
    assert cli.main(["shards", "build", "refcoco", "--root", f"{folder}/raw/refer", "--out", out, "--json"]) == 0
    (folder / "tiny.yaml").write_text(SHORT)
    shown = walk(TUTORIALS / "resume.md", folder)
    assert "the same command goes on" in shown
    (log,) = (folder / "runs/go-on").glob("train-*/jobs/*_0_log.err")
    assert "on 2 process(es)" in log.read_text()
    run = folder / "elsewhere/first"
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == rows[-1]["steps"]
    assert (run / f"checkpoints/step-{rows[-1]['step']:08d}/COMMIT").is_file()


@pytest.mark.slow
def test_own_pictures(folder: Path) -> None:
    page = TUTORIALS / "own-pictures.md"
    draw_pictures(page, folder / "pictures")
    out = f"{folder}/shards/refcoco"
    assert cli.main(["shards", "build", "refcoco", "--root", f"{folder}/raw/refer", "--out", out, "--json"]) == 0
    pretrain = ["train", "--config", f"{ROOT}/configs/demo/pretrain.yaml", "--data.folder", out]
    assert cli.main([*pretrain, "--run", f"{folder}/runs/pretrain", "--data.batch", "32"]) == 0
    shown = walk(page, folder)
    assert re.search(r"^train +expression +6 +6 +0$", shown, re.MULTILINE), "every row is kept"
    assert "runs/pretrain" in (folder / "runs/own/config.yaml").read_text()
    rows = [json.loads(line) for line in (folder / "runs/own/log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == rows[-1]["steps"] == 12
    assert "acc@0.5" in shown
    assert (folder / "answer.png").read_bytes().startswith(b"\x89PNG")


def draw_pictures(page: Path, folder: Path) -> None:
    """The pictures that the tables of the page name, with what they name in them."""
    folder.mkdir()
    pictures: dict[str, Image.Image] = {}
    for block in blocks(page):
        for row in csv.DictReader(block.text.splitlines()) if block.language == "csv" else ():
            picture = pictures.setdefault(row["picture"], Image.new("RGB", (64, 64), "white"))
            x, y, w, h = (int(row[side]) for side in "xywh")
            _, colour, _ = row["expression"].split()
            ImageDraw.Draw(picture).rectangle((x, y, x + w - 1, y + h - 1), fill=colour)
    for name, picture in pictures.items():
        picture.save(folder / name, quality=95)


def test_every_tutorial_is_run() -> None:
    """Those above, and that of SLURM in tests/slurm/test_tutorial.py."""
    run = {"own-pictures.md", "refcoco.md", "resume.md", "slurm.md"}
    assert {page.name for page in TUTORIALS.glob("*.md")} - {"index.md"} == run
