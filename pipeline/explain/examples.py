"""The examples of an evaluation that its report shows, explained."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from laconvnet.images import opened
from laconvnet.pipeline.explain import tiles
from laconvnet.pipeline.explain.explanation import Explanation
from laconvnet.pipeline.inference.predictor import Predictor
from laconvnet.pipeline.report.explained import SIDE
from laconvnet.pipeline.report.sheet import chosen
from laconvnet.shards.format.manifest import Manifest


def explained(model: Predictor, manifest: Manifest, answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each example that the report shows its words, each with its map, the mean of all blocks and heads, as a PNG.

    A map is a layer over the image, on one scale an example. Raises InputError for an image that cannot be read, and
    ConfigError for a model that cannot be explained.
    """
    shown = chosen(manifest, answers)
    rows = [answer for some in (shown.right, *shown.wrong.values()) for answer in some]
    found = []
    for answer in rows:
        with opened(manifest.read_image(int(answer["sample"]))) as image:
            explanation = model.explain(image, str(answer["text"]))
        found.append({"example": answer["example"], "words": _words(explanation)})
    return found


def _words(explanation: Explanation) -> list[dict[str, Any]]:
    small = tiles.smaller(explanation, SIDE)
    maps = [small.over(word) for word in range(len(small.words))]
    most = float(np.max(maps))
    return [
        {
            "word": word,
            "map": base64.b64encode(tiles.png(tiles.weights(one, most))).decode(),
            "least": round(float(one.min()), 4),
            "most": round(float(one.max()), 4),
        }
        for word, one in zip(small.words, maps, strict=True)
    ]
