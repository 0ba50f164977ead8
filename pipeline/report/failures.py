"""Wrong answers by kind, each by a rule of numbers (v2 Fig. 8 shows some)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from laconvnet.pipeline.data.masks import Mask, decode
from laconvnet.pipeline.tasks.rec import FOUND_ABOVE, iou_xywh
from laconvnet.shards.format.manifest import Manifest
from laconvnet.shards.format.record import Box

NEAR = 0.1  # an IoU with the truth from which an answer is about the right place
# Every kind with its rule, in the order in which they are asked for but for the last, which is whatever is left.
RULES = {
    "another object": f"a box with an IoU above {FOUND_ABOVE} with another annotated object of the image",
    "wrong extent": f"a box with an IoU of {NEAR} and more with the true one",
    "empty": "a mask without a pixel where there is something",
    "too little": f"a mask with an IoU of {NEAR} and more with the true one, and of fewer pixels",
    "too much": f"a mask with an IoU of {NEAR} and more with the true one, and of as many pixels or more; or any mask "
    "where there is nothing",
    "elsewhere": f"a box or a mask with an IoU below {NEAR} with the true one",
    "same family": "the true answer of another question of its family, or without families one of the same form: yes "
    "or no, a number, or words",
    "other family": "an answer that no question of its family has, or without families one of another form",
}
Answer = Mapping[str, Any]


def by_kind(manifest: Manifest, wrong: Sequence[Answer], answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """The wrong ones among ``answers`` about a set by their kind, in the order of RULES; no kind without any.

    Raises InputError for a record that cannot be read, ConfigError for a mask that does not fit its image.
    """
    families = _families(answers)
    found: dict[str, list[Answer]] = {kind: [] for kind in RULES}
    for answer in wrong:
        found[_kind(manifest, answer, families)].append(answer)
    return {kind: some for kind, some in found.items() if some}


def of_box(box: Box, iou: float, others: Sequence[Box]) -> str:
    """The kind of a box, xywh, by its IoU with the true one and the boxes of other objects of the image."""
    if others and iou_xywh(np.array([box] * len(others), np.float64), np.array(others, np.float64)).max() > FOUND_ABOVE:
        return "another object"
    return "wrong extent" if iou >= NEAR else "elsewhere"


def of_mask(predicted: Mask, truth: Mask, iou: float) -> str:
    """The kind of a mask, both (height, width)."""
    if not predicted.any():
        return "empty"
    if truth.any() and iou < NEAR:
        return "elsewhere"
    return "too little" if predicted.sum() < truth.sum() else "too much"


def of_words(answer: str, truth: str, family: set[str] | None) -> str:
    """The kind of an answer in words; the true answers of its family are None where there are no families."""
    same = _form(answer) == _form(truth) if family is None else answer in family
    return "same family" if same else "other family"


def _kind(manifest: Manifest, answer: Answer, families: Mapping[str, set[str]]) -> str:
    if "iou" not in answer:
        return of_words(str(answer["answer"]), str(answer["truth"]), families.get(str(answer.get("family"))))
    row, iou = int(answer["example"]), float(answer["iou"])
    sample = manifest.example(row, "sample")
    if "mask" in answer:
        height, width = (int(manifest.sample(sample, side)) for side in ("height", "width"))
        predicted, truth = (decode(answer[key], height, width) for key in ("mask", "truth"))
        return of_mask(predicted, truth, iou)
    own = manifest.example(row, "region")
    regions = manifest.read_record(sample).regions
    x, y, w, h = (float(side) for side in answer["box"])
    return of_box((x, y, w, h), iou, [region.box for number, region in enumerate(regions) if number != own])


def _families(answers: Sequence[Answer]) -> dict[str, set[str]]:
    """The true answers of each family of questions."""
    found: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        if answer.get("family") and isinstance(answer.get("truth"), str):
            found[str(answer["family"])].add(str(answer["truth"]))
    return dict(found)


def _form(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes or no"
    return "number" if re.fullmatch(r"\d+", answer) else "words"
