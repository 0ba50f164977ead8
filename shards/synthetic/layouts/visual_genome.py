"""The layout of Visual Genome.

    visual_genome/{image_data,region_descriptions,objects,attributes,relationships,question_answers}.json
    visual_genome/VG_100K/<image_id>.jpg

Objects, attributes and relationships are in the layout of version 1.2 and later (`object_id`, `names`). Of every eight
images one is an image of REFER's val, testA and testB in turn, two are of its train split (`coco_id` names it, the
file is the same bytes) and five are new (`coco_id` null). So combinations of HELD_OUT occur only in images whose
`coco_id` is one of testB, which a pretraining set has to leave out.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from laconvnet.shards.synthetic.draw import jpeg, paint
from laconvnet.shards.synthetic.expressions import STYLES, express
from laconvnet.shards.synthetic.layouts import clevr, refer
from laconvnet.shards.synthetic.questions import OPEN_FAMILIES, QuestionPool
from laconvnet.shards.synthetic.scene import Scene, draw_scene

FOLDER = Path("visual_genome")
PICTURES = FOLDER / "VG_100K"
FILES = ("image_data", "region_descriptions", "objects", "attributes", "relationships", "question_answers")

_URL = "https://cs.stanford.edu/people/rak248/VG_100K"
_NUMBERS = {"0": "Zero", "1": "One", "2": "Two", "3": "Three"}
_PREDICATES = {"left": "left of", "right": "right of", "behind": "above", "front": "below"}
_QUESTIONS = 2
_KIND_TRIES = 4

Shared = list[refer.RefImage]


def write(root: Path, number: int, side: int, seed: int, shared: Shared, tick: Callable[[], object]) -> dict[str, int]:
    """Write `number` images, some of them images of REFER (`shared`); returns counts."""
    (root / PICTURES).mkdir(parents=True)
    pool = QuestionPool(random.Random(f"visual_genome/{seed}/questions"), OPEN_FAMILIES)
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in FILES}
    ids = {name: iter(range(1, 1 << 62)) for name in ("object", "region", "relationship", "qa")}
    counts = dict.fromkeys(("visual_genome_shared", "visual_genome_regions", "visual_genome_questions"), 0)
    for image_id, old in enumerate(_mixed(number, shared), 1):
        rng = random.Random(f"visual_genome/{seed}/{image_id}")
        path = root / PICTURES / f"{image_id}.jpg"
        if old is None:
            scene = draw_scene(rng, side)
            path.write_bytes(jpeg(paint(scene, rng)))
        else:
            scene = old.scene
            shutil.copyfile(root / refer.PICTURES / old.file_name, path)
        described = clevr.describe(scene, "", image_id)
        boxes = _boxes(scene, ids["object"])
        regions = _regions(rng, scene, image_id, ids["region"])
        questions = [
            {
                "a_objects": [],
                "question": question.text,
                "image_id": image_id,
                "qa_id": next(ids["qa"]),
                "answer": f"{_NUMBERS.get(question.answer, question.answer.capitalize())}.",
                "q_objects": [],
            }
            for question in pool.questions(scene, described, _QUESTIONS)
        ]
        tables["image_data"].append(
            {
                "width": side,
                "url": f"{_URL}/{image_id}.jpg",
                "height": side,
                "image_id": image_id,
                "coco_id": None if old is None else old.id,
                "flickr_id": None,
            }
        )
        tables["region_descriptions"].append({"regions": regions, "id": image_id})
        tables["objects"].append({"image_id": image_id, "objects": boxes})
        attributed = [
            {**box, "attributes": [shape.size, shape.colour]} for box, shape in zip(boxes, scene.shapes, strict=True)
        ]
        tables["attributes"].append({"image_id": image_id, "attributes": attributed})
        related = _relationships(rng, boxes, described["relationships"], ids["relationship"])
        tables["relationships"].append({"image_id": image_id, "relationships": related})
        tables["question_answers"].append({"id": image_id, "qas": questions})
        counts["visual_genome_shared"] += old is not None
        counts["visual_genome_regions"] += len(regions)
        counts["visual_genome_questions"] += len(questions)
        tick()
    for name, entries in tables.items():
        (root / FOLDER / f"{name}.json").write_text(json.dumps(entries))
    return {"visual_genome_pictures": number, **counts}


def _mixed(number: int, shared: Shared) -> Iterator[refer.RefImage | None]:
    train = iter([image for image in shared if image.split == "train"])
    by_split = [[image for image in shared if image.split == split] for split in ("val", "testA", "testB")]
    held_out = (image for trio in zip(*by_split, strict=True) for image in trio)
    for index in range(number):
        position = index % 8
        yield next(held_out, None) if position == 0 else next(train, None) if position in (1, 2) else None


def _boxes(scene: Scene, ids: Iterator[int]) -> list[dict[str, Any]]:
    return [
        {
            "object_id": next(ids),
            "x": shape.x,
            "y": shape.y,
            "w": shape.extent,
            "h": shape.extent,
            "names": [shape.shape],
            "synsets": [f"{shape.shape}.n.01"],
        }
        for shape in scene.shapes
    ]


def _regions(rng: random.Random, scene: Scene, image_id: int, ids: Iterator[int]) -> list[dict[str, Any]]:
    """One region a shape, with a phrase that denotes no other shape; shapes that no phrase singles out have none."""
    style = STYLES["visual_genome"]
    regions = []
    for index, shape in enumerate(scene.shapes):
        kinds = rng.choices(list(style.mix), list(style.mix.values()), k=_KIND_TRIES)
        phrase = next((text for kind in kinds if (text := express(rng, scene, index, kind)) is not None), None)
        if phrase is not None:
            regions.append(
                {
                    "region_id": next(ids),
                    "width": shape.extent,
                    "height": shape.extent,
                    "image_id": image_id,
                    "phrase": phrase,
                    "y": shape.y,
                    "x": shape.x,
                }
            )
    return regions


def _relationships(
    rng: random.Random, boxes: list[dict[str, Any]], relations: dict[str, list[list[int]]], ids: Iterator[int]
) -> list[dict[str, Any]]:
    """One relationship a shape, where some other shape is on the side drawn."""
    related = []
    for index, box in enumerate(boxes):
        side = rng.choice(tuple(_PREDICATES))
        subjects = relations[side][index]
        if subjects:
            related.append(
                {
                    "relationship_id": next(ids),
                    "predicate": _PREDICATES[side],
                    "synsets": [],
                    "subject": boxes[rng.choice(subjects)],
                    "object": box,
                }
            )
    return related
