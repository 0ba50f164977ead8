"""The layout of CLEVR v1.0, for flat shapes.

    clevr/images/{train,val,test}/CLEVR_<split>_<6 digits>.png
    clevr/scenes/CLEVR_{train,val}_scenes.json
    clevr/questions/CLEVR_{train,val,test}_questions.json

As in the release the test split has neither scenes nor programs nor answers. Images of train and val hold no
combination of HELD_OUT, every image of test holds one. "front" is lower and "behind" is higher in the image;
there is one material.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from laconvnet.shards.synthetic.draw import paint, png
from laconvnet.shards.synthetic.questions import CLEVR_RELATION, FAMILIES, Question, QuestionPool
from laconvnet.shards.synthetic.scene import Scene, draw_scene

MATERIAL = "rubber"
MOST = 5  # shapes an image: with six hardly anything has a short name of its own

_DIRECTIONS = {
    "left": [-1.0, 0.0, 0.0],
    "right": [1.0, 0.0, 0.0],
    "front": [0.0, -1.0, 0.0],
    "behind": [0.0, 1.0, 0.0],
    "above": [0.0, 0.0, 1.0],
    "below": [0.0, 0.0, -1.0],
}
_HALF_WORLD = 3.0  # an image spans 6 units of CLEVR's world


def write(
    root: Path, splits: dict[str, int], side: int, seed: int, questions_per_picture: int, tick: Callable[[], object]
) -> dict[str, int]:
    """Write the data set with `splits` images a split; returns its counts."""
    for table in ("scenes", "questions"):
        (root / "clevr" / table).mkdir(parents=True)
    counts = {"clevr_pictures": 0, "clevr_questions": 0}
    for split, number in splits.items():
        folder = root / "clevr/images" / split
        folder.mkdir(parents=True)
        pool = QuestionPool(random.Random(f"clevr/{seed}/{split}/questions"))
        scenes: list[dict[str, Any]] = []
        questions: list[dict[str, Any]] = []
        for index in range(number):
            rng = random.Random(f"clevr/{seed}/{split}/{index}")
            scene = draw_scene(rng, side, novel=split == "test", most=MOST)
            described = describe(scene, split, index)
            (folder / described["image_filename"]).write_bytes(png(paint(scene, rng)))
            scenes.append(described)
            for question in pool.questions(scene, described, questions_per_picture):
                questions.append(_question(question, described, len(questions)))
            tick()
        if split != "test":
            _dump(root / f"clevr/scenes/CLEVR_{split}_scenes.json", split, "scenes", scenes)
        _dump(root / f"clevr/questions/CLEVR_{split}_questions.json", split, "questions", questions)
        counts["clevr_pictures"] += len(scenes)
        counts["clevr_questions"] += len(questions)
    return counts


def describe(scene: Scene, split: str, index: int) -> dict[str, Any]:
    """A scene as one entry of CLEVR's scene file; `relationships[r][i]` are the objects that are r of object i."""
    shapes = scene.shapes
    coordinates = {
        "left": [shape.cx for shape in shapes],
        "right": [-shape.cx for shape in shapes],
        "top": [shape.cy for shape in shapes],
        "bottom": [-shape.cy for shape in shapes],
    }
    unit = 2 * _HALF_WORLD / scene.side
    return {
        "image_filename": f"CLEVR_{split}_{index:06d}.png",
        "image_index": index,
        "split": split,
        "directions": _DIRECTIONS,
        "objects": [
            {
                "shape": shape.shape,
                "color": shape.colour,
                "size": shape.size,
                "material": MATERIAL,
                "rotation": 0.0,
                "3d_coords": [
                    round(shape.cx * unit - _HALF_WORLD, 4),
                    round(_HALF_WORLD - shape.cy * unit, 4),
                    round(shape.extent * unit / 2, 4),
                ],
                "pixel_coords": [int(shape.cx), int(shape.cy), 10.0],
            }
            for shape in shapes
        ],
        "relationships": {
            CLEVR_RELATION[side]: [[j for j, there in enumerate(values) if there < here] for here in values]
            for side, values in coordinates.items()
        },
    }


def _question(question: Question, scene: dict[str, Any], index: int) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "image_filename": scene["image_filename"],
        "image_index": scene["image_index"],
        "split": scene["split"],
        "question_index": index,
        "question": question.text,
    }
    if scene["split"] != "test":
        entry |= {
            "answer": question.answer,
            "program": question.program,
            "question_family_index": list(FAMILIES).index(question.family),
        }
    return entry


def _dump(path: Path, split: str, name: str, entries: list[dict[str, Any]]) -> None:
    info = {"split": split, "license": "CC0 1.0", "version": "1.0", "date": "1/1/2014"}
    path.write_text(json.dumps({"info": info, name: entries}))
