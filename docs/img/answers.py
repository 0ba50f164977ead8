"""Draws answers of a scored run as one PNG: `python docs/img/answers.py SCORES.answers.jsonl SET OUT.png`.

Two expressions a row on one image each, true boxes white and dashed, predicted ones orange; the last row has mistakes.
"""

from __future__ import annotations

import io
import json
import sys
from collections import defaultdict
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle
from PIL import Image

from laconvnet.shards.format.manifest import Manifest

COLUMNS, ROWS = 4, 2
Answer = dict[str, Any]


def chosen(answers: list[Answer]) -> list[Answer]:
    """Pairs of answers on different shapes of one image, found, and as many mistakes as fill the last two cards."""
    by_image: dict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_image[answer["sample"]].append(answer)
    pairs: list[Answer] = []
    for found in by_image.values():
        right = [answer for answer in found if answer["iou"] > 0.5 and len(answer["text"].split()) >= 4]
        other = [answer for answer in right if answer["truth"] != right[0]["truth"]]
        if other and len(pairs) < COLUMNS * ROWS - 2:
            pairs += [right[0], other[0]]
    wrong = [answer for answer in answers if answer["iou"] < 0.1 and len(answer["text"].split()) >= 4]
    return pairs + wrong[:2]


def draw(answers: list[Answer], manifest: Manifest, out: Path) -> None:
    figure, places = plt.subplots(ROWS, COLUMNS, figsize=(9.6, 5.6), dpi=100)
    for place, answer in zip(places.flat, chosen(answers), strict=True):
        with Image.open(io.BytesIO(manifest.read_image(answer["sample"]))) as image:
            place.imshow(image.convert("RGB"), interpolation="nearest")
        for key, colour, dashes in (("truth", "white", (0, (4, 3))), ("box", "#ff8c2b", "-")):
            x, y, w, h = answer[key]
            place.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, ec=colour, lw=2, ls=dashes))
        verdict = "✓" if answer["iou"] > 0.5 else "✗"
        place.set_title(fill(f"{verdict} {answer['text']}", 30), fontsize=9)
        place.axis("off")
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn)
    Image.open(drawn).convert("RGB").quantize(160).save(out, optimize=True)


if __name__ == "__main__":
    file, folder, out = map(Path, sys.argv[1:])
    draw([json.loads(line) for line in file.read_text().splitlines()], Manifest.open(folder), out)
