"""Small built sets for the pipeline: the generator's images through the road that real data take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PICTURES, SIZE = 40, 64


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of built sets by source, and "merged": refcoco and half of visual_genome for pretraining."""
    from laconvnet.shards.build.builder import build
    from laconvnet.shards.sets.merge import pretrain_set
    from laconvnet.shards.sources import get
    from laconvnet.shards.synthetic import generate

    place = tmp_path_factory.mktemp("sets")
    generate(place / "raw", pictures=PICTURES, size=SIZE, progress=False)
    roots = dict.fromkeys(("refcoco", "refcoco+", "refcocog"), "refer")
    roots |= {"clevr": "clevr", "visual_genome": "visual_genome"}
    folders = {name: place / name for name in roots}
    for name, root in roots.items():
        source = get(name)
        samples = source.samples(place / "raw" / root, images=None, splits=None, partition=None)
        # Shards of some twenty images: a set has several.
        facts: dict[str, Any] = {"source": name, "licence": source.licence, "options": {}}
        build(samples, folders[name], **facts, shard_bytes=16_000, progress=False)
    folders["merged"] = place / "merged"
    inputs = [(folders["refcoco"], 1.0), (folders["visual_genome"], 0.5)]
    pretrain_set(inputs, [folders["refcoco"]], folders["merged"])
    return folders


@pytest.fixture(scope="session")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built set of gRefCOCO's layout: one, two and no objects, on images that are their own mirror image.

    Every image is black, 96 x 64 or 64 x 96 (w x h), with a white box in its left half and one in its right half.
    Each split has four images, with these groups: left box, right box, both boxes (two sentences), a unicorn.
    """
    from laconvnet.shards.build.builder import build
    from laconvnet.shards.sources import get

    folder = tmp_path_factory.mktemp("groups")
    (folder / "raw" / "grefcoco").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    expressions = {(0,): ["left box"], (1,): ["right box"], (0, 1): ["both boxes", "two boxes"], (): ["a unicorn"]}
    for number in range(8):
        width, height = ((96, 64), (64, 96))[number % 2]
        pixels = np.zeros((height, width, 3), np.uint8)
        name = f"COCO_train2014_{number:012d}.png"
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        w, h, x, y = 12, 20 + number, 8, 10 + number
        for side, left in enumerate((x, width - x - w)):
            pixels[y : y + h, left : left + w] = 255
            corners = [left, y, left + w, y, left + w, y + h, left, y + h]
            shape = {"bbox": [left, y, w, h], "segmentation": [corners], "iscrowd": 0}
            annotations.append({"id": 10 * number + side, "image_id": number, "category_id": 1, **shape})
        Image.fromarray(pixels).save(folder / "raw" / name)
        for objects, texts in expressions.items():
            ids = [10 * number + side for side in objects] or [-1]
            sentences = [{"sent_id": len(refs) * 10 + at, "sent": text, "raw": text} for at, text in enumerate(texts)]
            fields = {"ref_id": len(refs), "image_id": number, "split": "train" if number < 4 else "val"}
            refs.append({**fields, "ann_id": ids, "category_id": [1], "sentences": sentences, "no_target": not objects})
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    (folder / "raw" / "grefcoco" / "instances.json").write_text(json.dumps(instances))
    (folder / "raw" / "grefcoco" / "grefs(unc).json").write_text(json.dumps(refs))
    source = get("grefcoco")
    samples = source.samples(folder / "raw", images=folder / "raw", splits=None, partition=None)
    facts: dict[str, Any] = {"source": "grefcoco", "licence": source.licence, "options": {}}
    build(samples, folder / "built", **facts, shard_bytes=4000, progress=False)
    return folder / "built"
