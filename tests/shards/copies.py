"""How far the difference hashes of copies are from their originals, and those of strangers from each other.

    python -m tests.shards.copies FOLDER...

prints the tables of docs/datasets.md for the images under these folders together: of copies the median, the 90 %
percentile and the largest distance; of strangers the share of images whose hash is telling, the pairs of one of them
with any other image, the least, the 0.01 %, 1 % and 50 % percentile of their distances, and how many are within both
limits. With ``--crops N`` strangers are N crops of each image, 35 to 60 % of a side: an excerpt of a data set has few.

    python -m tests.shards.copies --search 100000 30000

prints the seconds of a processor that it takes to compare so many hashes of chance with so many others.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from laconvnet.shards.build.content import difference_hash
from laconvnet.shards.sets.holdout import DOUBTFUL_WITHIN, SAME_WITHIN
from laconvnet.shards.sets.near import Hashes, nearest, packed, telling

Change = Callable[[Image.Image], Image.Image]


def compressed(quality: int) -> Change:
    """A JPEG of this quality."""

    def change(image: Image.Image) -> Image.Image:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=quality)
        return Image.open(data).convert("RGB")

    return change


def resized(factor: float) -> Change:
    """Both sides by this factor."""
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)))


def cropped(left: float = 0, top: float = 0, right: float = 0, bottom: float = 0) -> Change:
    """Without these shares of width and height."""

    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        return image.crop(
            (round(width * left), round(height * top), round(width * (1 - right)), round(height * (1 - bottom)))
        )

    return change


def gray(image: Image.Image) -> Image.Image:
    """Without colour."""
    return image.convert("L").convert("RGB")


def smaller_jpeg(image: Image.Image) -> Image.Image:
    """At 0.3, and compressed."""
    return compressed(75)(resized(0.3)(image))


COPIES: dict[str, Change] = {
    "JPEG, quality 30": compressed(30),
    "JPEG, quality 50": compressed(50),
    "JPEG, quality 70": compressed(70),
    "JPEG, quality 95": compressed(95),
    "resized to 0.3": resized(0.3),
    "resized to 0.5": resized(0.5),
    "resized to 1.5": resized(1.5),
    "resized to 0.3, quality 75": smaller_jpeg,
    "gray": gray,
}
CROPS: dict[str, Change] = {
    "cropped by 1 % at each side": cropped(0.01, 0.01, 0.01, 0.01),
    "cropped by 1.5 % at each side": cropped(0.015, 0.015, 0.015, 0.015),
    "cropped by 3 % at the left": cropped(left=0.03),
    "cropped by 2.5 % at each side": cropped(0.025, 0.025, 0.025, 0.025),
    "cropped by 5 % at the top": cropped(top=0.05),
    "cropped by 5 % at the left": cropped(left=0.05),
}
OTHERS: dict[str, Change] = {"flipped": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)}


def hashed(images: Sequence[Image.Image]) -> Hashes:
    """The difference hashes (N, 4) of RGB images, which must not be tiny."""
    return packed([difference_hash(np.asarray(image)) or b"" for image in images])


def distances(images: Sequence[Image.Image], change: Change) -> NDArray[np.int64]:
    """The distances of copies from those of these images whose hash is telling."""
    hashes, copies = hashed(images), hashed([change(image) for image in images])
    bits: NDArray[np.int64] = np.bitwise_count(hashes ^ copies).sum(-1, dtype=np.int64)
    return bits[telling(hashes)]


def strangers(images: Sequence[Image.Image], crops: int = 0) -> tuple[float, NDArray[np.int64]]:
    """The share of images, or of crops, whose hash is telling, and their distances from the others' hashes."""
    draw = np.random.default_rng(0)
    parts = [(number, part) for number, image in enumerate(images) for part in _parts(image, crops, draw)]
    hashes, numbers = hashed([part for _, part in parts]), np.array([number for number, _ in parts])
    known = telling(hashes)
    found = [
        np.bitwise_count(hashes[at] ^ hashes[numbers != numbers[at]]).sum(-1, dtype=np.int64)
        for at in np.flatnonzero(known)
    ]
    return float(known.mean()), np.concatenate([np.empty(0, np.int64), *found])


def _parts(image: Image.Image, crops: int, draw: np.random.Generator) -> Iterator[Image.Image]:
    if not crops:
        yield image
    for _ in range(crops):
        share = draw.uniform(0.35, 0.6)
        left, top = draw.uniform(0, 1 - share, 2)
        yield cropped(left, top, 1 - left - share, 1 - top - share)(image)


def opened(folders: Sequence[Path]) -> list[Image.Image]:
    """The images under these folders, each once."""
    paths = [path for folder in folders for ending in ("jpg", "png") for path in sorted(folder.rglob(f"*.{ending}"))]
    return [Image.open(path).convert("RGB") for path in {path.read_bytes(): path for path in paths}.values()]


def _report(folders: Sequence[Path], crops: int) -> Iterator[str]:
    images = opened(folders)
    yield f"{len(images)} images"
    for name, change in {**COPIES, **CROPS, **OTHERS}.items():
        bits = distances(images, change)
        if len(bits):
            yield f"| {name} | {np.median(bits):.0f} | {np.percentile(bits, 90):.0f} | {bits.max()} |"
    share, bits = strangers(images, crops)
    told = [f"{np.percentile(bits, at):.0f}" for at in (0, 0.01, 1, 50)] if len(bits) else ["-"] * 4
    near = [f"{np.count_nonzero(bits <= within)}" for within in (SAME_WITHIN, DOUBTFUL_WITHIN)]
    yield f"| strangers | {100 * share:.0f} % | {len(bits):,} | {' | '.join([*told, *near])} |"


def _searched(queries: int, others: int) -> float:
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**64, (queries + others, 4), dtype=np.uint64)
    begin = time.process_time()
    nearest(hashes[:queries], hashes[queries:], DOUBTFUL_WITHIN)
    return time.process_time() - begin


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--crops", type=int, default=0)
    parser.add_argument("--search", nargs=2, type=int, default=(0, 0))
    given = parser.parse_args()
    if given.folders:
        print("\n".join(_report(given.folders, given.crops)))
    if all(given.search):
        print(f"{_searched(*given.search):.1f} s")
