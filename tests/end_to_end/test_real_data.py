"""The commands on real images, from original files to a drawn prediction: CLEVR and Visual Genome samples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from laconvnet.shards.format.manifest import Manifest
from tests.pipeline.training import ranks
from tests.samples import SAMPLES as DATA
from tests.samples import needs

pytestmark = [
    pytest.mark.slow,
    needs(DATA),
]

TINY = ["--model.preset", "tiny", "--data.threads", "1", "--engine.precision", "fp32", "--optimizer.clip", "1"]


def laconvnet(*arguments: object) -> Any:
    """Run the command in a process of its own; the JSON object that it prints, if any."""
    (output,) = ranks.run(1, ["-m", "laconvnet.launch.cli", *map(str, arguments)])
    found = re.search(r"^\{", output, re.MULTILINE)
    return json.JSONDecoder().raw_decode(output, found.start())[0] if found else None


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_questions_on_clevr(tmp_path: Path) -> None:
    built = laconvnet("shards", "build", "clevr", "--root", DATA / "clevr/1obj", "--out", tmp_path / "clevr", "--json")
    # One of the thirty images has no question.
    assert (built["samples"], built["questions"], built["quarantined"]) == (29, 116, 0)
    assert laconvnet("shards", "verify", tmp_path / "clevr", "--full", "--json")["samples"] == 29
    run = tmp_path / "run"
    keys = ["--data.folder", tmp_path / "clevr", "--data.size", 64, "--data.words", 20, "--data.batch", 15]
    recipe = [
        "--model.task",
        "vqa",
        "--optimizer.lr",
        2e-3,
        "--schedule.epochs",
        50,
        "--schedule.warmup",
        2,
        "--log.every",
        20,
    ]
    laconvnet("train", "--run", run, *TINY, *keys, *recipe, "--optimizer.ema", 0.95)
    assert losses(run)[-1] < 0.5 * losses(run)[0]
    learned = laconvnet("eval", run, "--data", tmp_path / "clevr", "--split", "train", "--controls", "--json")
    assert learned["examples"] == 30
    assert learned["accuracy"] > 0.8
    assert learned["accuracy"] > learned["controls"]["shuffled_words"]["accuracy"] + 0.2
    held_out = laconvnet("eval", run, "--data", tmp_path / "clevr", "--split", "val", "--json")
    assert held_out["examples"] > 0
    answers = [json.loads(line) for line in (run / "eval/clevr-train.answers.jsonl").read_text().splitlines()]
    known = next(answer for answer in answers if answer["correct"])
    name = Manifest.open(tmp_path / "clevr").samples["file_name"][known["sample"]].as_py()
    image = DATA / "clevr/1obj/images/train" / Path(name).name
    answer = laconvnet("predict", run, "--image", image, "--text", known["text"], "--json")
    assert answer["answer"] == known["truth"]


@pytest.mark.variant
def test_expressions_on_visual_genome(tmp_path: Path) -> None:
    folder = tmp_path / "visual_genome"
    built = laconvnet("shards", "build", "visual_genome", "--root", DATA / "visual_genome", "--out", folder, "--json")
    assert built["samples"] == 4
    assert built["expressions"] > 100
    run = tmp_path / "run"
    keys = ["--data.folder", folder, "--data.size", 128, "--data.batch", 8]
    head = ["--model.heads.anchors.stride", 8, "--model.heads.anchors.sizes", "[[10, 10], [25, 40], [80, 60]]"]
    recipe = ["--optimizer.lr", 2e-3, "--schedule.epochs", 12, "--schedule.warmup", 1, "--log.every", 20]
    laconvnet("train", "--run", run, *TINY, *keys, *head, *recipe, "--optimizer.ema", 0.95)
    assert losses(run)[-1] < 0.6 * losses(run)[0]
    there = ["--at-least", 0.8]  # the excerpt has annotations of an image that it does not hold
    learned = laconvnet("eval", run, "--data", folder, "--split", "train", "--controls", "--json", *there)
    assert learned["examples"] == built["expressions"] < learned["annotated"]
    assert learned["acc@0.5"] > learned["controls"]["shuffled_words"]["acc@0.5"] + 0.1
    drawing = tmp_path / "answer.png"
    answer = laconvnet(
        "predict", run, "--image", DATA / "visual_genome/1.jpg", "--text", "green clock", "--out", drawing, "--json"
    )
    x, y, w, h = answer["box"]
    assert 0 <= x <= x + w <= 800
    assert 0 <= y <= y + h <= 600
    with Image.open(drawing) as drawn, Image.open(DATA / "visual_genome/1.jpg") as image:
        assert drawn.width == 800
        assert drawn.crop((0, 0, 800, 600)).tobytes() != image.convert("RGB").tobytes()
