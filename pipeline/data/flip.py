"""The mirror: images, boxes, masks and words with left and right exchanged. Each function undoes itself."""

from __future__ import annotations

import re

import torch
from torch import Tensor

# What people write left and right together with. A list, not any letters: "upright", "bright", "cleft" and "leftovers"
# hold the same letters and speak of no side; that is why "up" and "down" ("downright") are not in it.
_PLACES = ("top", "bottom", "upper", "lower", "back", "front", "middle", "mid", "center", "centre", "far", "corner")
_ENDINGS = (
    "most",  # leftmost; left-most is two words
    "er",  # the righter of the two
    "est",
    "hand",  # lefthand side
    "handed",
    "hander",
    "side",
    "ward",
    "wards",
    "ish",
    "y",  # lefty, righty: players by their hand
    "ie",
    "ies",
    "s",  # rights arm: the words rule makes it of right's
)
_BEFORE, _AFTER = "|".join(_PLACES), "|".join((*_PLACES, *_ENDINGS))
_LETTER = r"[^\W\d_]"
# Case by ASCII alone: Unicode's would take the dotless i of another language for an i.
_WORD = re.compile(rf"(?<!{_LETTER})(?ai:((?:{_BEFORE})?)(left|right)((?:{_AFTER})?))(?!{_LETTER})")
_OTHER = {"left": "right", "right": "left"}


def flip_words(text: str) -> str:
    """The text that says of the mirrored image what this one says of the image, its letters' case kept.

    Exchanged are the words left and right and their compounds with a place or an ending (``topleft``, ``left-most``,
    ``rightmost``). Every "right" counts, in "right behind" too: no rule tells the adverb from the side, and exchanged
    twice it is itself again. Hours of a clock and writing in an image have no counterpart.
    """
    return _WORD.sub(lambda found: found[1] + _cased(_OTHER[found[2].lower()], found[2]) + found[3], text)


def _cased(word: str, like: str) -> str:
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[0].isupper() else word


def flip_images(images: Tensor, which: Tensor) -> Tensor:
    """Images (B, C, S, S) or masks (B, S, S), left and right exchanged in those that ``which`` (B,) names."""
    chosen = which.view(-1, *[1] * (images.dim() - 1))
    return images.where(~chosen, images.flip(-1))


def flip_boxes(boxes: Tensor, size: int, which: Tensor) -> Tensor:
    """Boxes (B, 4), xyxy on the square of ``size`` pixels, with its images mirrored by `flip_images`."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([size - x2, y1, size - x1, y2], 1).where(which[:, None], boxes)
