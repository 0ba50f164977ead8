"""The layout of REFER: RefCOCO, RefCOCO+ and RefCOCOg over one folder of COCO images.

    refer/refcoco/{refs(unc).p,instances.json}      location words allowed
    refer/refcoco+/{refs(unc).p,instances.json}     appearance and comparison only
    refer/refcocog/{refs(umd).p,instances.json}     whole sentences
    refer/images/mscoco/images/train2014/COCO_train2014_<12 digits>.jpg

All three speak of the same images. RefCOCO and RefCOCO+ have train, val, testA and testB; RefCOCOg's test is made of
the images of testA and testB. A combination of HELD_OUT occurs in images of testB alone, where every referent of
RefCOCO and RefCOCO+ is of one.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconvnet.shards.synthetic.draw import jpeg, outline, outline_area, paint
from laconvnet.shards.synthetic.expressions import STYLES, Speaker
from laconvnet.shards.synthetic.scene import SHAPES, Scene, draw_scene

FAMILY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
PICTURES = Path("refer/images/mscoco/images/train2014")
CATEGORIES = {shape: number for number, shape in enumerate(SHAPES, 1)}

_REFS = ((1, 2, 3), (50, 35, 15))  # how many referents an image has, and in what shares

Referents = list[tuple[int, list[str]]]


@dataclass(frozen=True, slots=True)
class RefImage:
    """One image of the family: its COCO id, split, scene and the id of its first annotation."""

    id: int
    split: str
    scene: Scene
    first_annotation: int

    @property
    def file_name(self) -> str:
        return f"COCO_train2014_{self.id:012d}.jpg"


def write(
    root: Path, splits: dict[str, int], side: int, seed: int, tick: Callable[[], object]
) -> tuple[list[RefImage], dict[str, int]]:
    """Write the family with `splits` images a split; returns its images and counts."""
    (root / PICTURES).mkdir(parents=True)
    images: list[RefImage] = []
    refs: dict[str, list[dict[str, Any]]] = {name: [] for name in FAMILY}
    sentences = dict.fromkeys(FAMILY, 0)
    annotations: list[dict[str, Any]] = []
    for split, number in splits.items():
        speakers = {name: Speaker(STYLES[name]) for name in FAMILY}
        for index in range(number):
            rng = random.Random(f"refer/{seed}/{split}/{index}")
            scene, referents = _scene(rng, split, side, speakers)
            image = RefImage(len(images) + 1, split, scene, len(annotations) + 1)
            (root / PICTURES / image.file_name).write_bytes(jpeg(paint(scene, rng)))
            annotations += _annotations(image)
            for name in FAMILY:
                for referent, texts in referents[name]:
                    ref_id = len(refs[name]) + 1
                    refs[name].append(_ref(name, image, referent, texts, ref_id, sentences[name]))
                    sentences[name] += len(texts)
            images.append(image)
            tick()
    instances = json.dumps(_instances(images, annotations, side)).encode()
    for name, partition in FAMILY.items():
        folder = root / "refer" / name
        folder.mkdir()
        (folder / "instances.json").write_bytes(instances)
        with (folder / f"refs({partition}).p").open("wb") as file:
            pickle.dump(refs[name], file, protocol=2)
    counts = {"refer_pictures": len(images), "refer_annotations": len(annotations)}
    for name in FAMILY:
        counts |= {f"{name}_refs": len(refs[name]), f"{name}_expressions": sentences[name]}
    return images, counts


def _scene(
    rng: random.Random, split: str, side: int, speakers: dict[str, Speaker]
) -> tuple[Scene, dict[str, Referents]]:
    """A scene of which every member of the family has something to say, and what it says."""
    while True:
        scene = draw_scene(rng, side, novel=split == "testB")
        referents = {name: _referents(rng, scene, name, split, speaker) for name, speaker in speakers.items()}
        if all(referents.values()):
            return scene, referents


def _referents(rng: random.Random, scene: Scene, name: str, split: str, speaker: Speaker) -> Referents:
    left = [
        index for index, shape in enumerate(scene.shapes) if name == "refcocog" or split != "testB" or shape.held_out
    ]
    referents: Referents = []
    for _ in range(min(len(left), rng.choices(*_REFS)[0])):
        found = speaker.refer(rng, scene, left)
        if found is None:
            break
        referents.append(found)
        left.remove(found[0])
    return referents


def _ref(
    name: str, image: RefImage, referent: int, texts: list[str], ref_id: int, sentences_before: int
) -> dict[str, Any]:
    sent_ids = list(range(sentences_before + 1, sentences_before + 1 + len(texts)))
    annotation = image.first_annotation + referent
    split = "test" if name == "refcocog" and image.split.startswith("test") else image.split
    return {
        "sent_ids": sent_ids,
        "file_name": image.file_name.replace(".jpg", f"_{annotation}.jpg"),
        "ann_id": annotation,
        "ref_id": ref_id,
        "image_id": image.id,
        "split": split,
        "sentences": [
            {
                "tokens": text.split(),
                "raw": f"{text.capitalize()}." if name == "refcocog" else text,
                "sent_id": sent_id,
                "sent": text,
            }
            for sent_id, text in zip(sent_ids, texts, strict=True)
        ],
        "category_id": CATEGORIES[image.scene.shapes[referent].shape],
    }


def _annotations(image: RefImage) -> list[dict[str, Any]]:
    return [
        {
            "segmentation": [outline(shape)],
            "area": outline_area(shape.shape, shape.extent),
            "iscrowd": 0,
            "image_id": image.id,
            "bbox": [float(shape.x), float(shape.y), float(shape.extent), float(shape.extent)],
            "category_id": CATEGORIES[shape.shape],
            "id": image.first_annotation + index,
        }
        for index, shape in enumerate(image.scene.shapes)
    ]


def _instances(images: list[RefImage], annotations: list[dict[str, Any]], side: int) -> dict[str, Any]:
    return {
        "info": {
            "description": "Generated pictures of coloured shapes in the layout of REFER.",
            "url": "",
            "version": "1.0",
            "year": 2014,
            "contributor": "laconvnet.shards.synthetic",
            "date_created": "2014-01-01 00:00:00",
        },
        "images": [
            {
                "license": 1,
                "file_name": image.file_name,
                "coco_url": "",
                "height": side,
                "width": side,
                "date_captured": "2014-01-01 00:00:00",
                "flickr_url": "",
                "id": image.id,
            }
            for image in images
        ],
        "annotations": annotations,
        "categories": [{"supercategory": "shape", "id": number, "name": name} for name, number in CATEGORIES.items()],
        "licenses": [{"url": "https://creativecommons.org/publicdomain/zero/1.0/", "id": 1, "name": "CC0 1.0"}],
    }
