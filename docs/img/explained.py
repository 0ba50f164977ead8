"""Draws what a run made of the words of one example as a PNG: `python docs/img/explained.py RUN SET EXAMPLE OUT.png`.

The sheet is that of `laconvnet explain`; the example is a row of the set's table, as the answers of a scored run name
it.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

import laconvnet
from laconvnet.pipeline.explain.filters import places
from laconvnet.pipeline.explain.picture import picture
from laconvnet.shards.format.manifest import Manifest


def draw(run: Path, folder: Path, example: int, out: Path) -> None:
    manifest = Manifest.open(folder)
    with Image.open(io.BytesIO(manifest.read_image(manifest.example(example, "sample")))) as image:
        found = laconvnet.load(run, device="cpu").explain(image, manifest.example(example, "text"))
    picture(found, places(found.answer)).quantize(256).save(out, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
