"""Scenes of coloured shapes: what is in an image before it is drawn or spoken of.

Coordinates are pixels, the origin at the upper left corner, x to the right and y downwards.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (225, 40, 40),
    "green": (40, 175, 55),
    "blue": (50, 85, 240),
    "yellow": (240, 220, 50),
    "purple": (190, 60, 205),
    "cyan": (60, 215, 225),
}
SHAPES = ("circle", "square", "triangle")
SIZES = ("small", "large")

HELD_OUT = frozenset({("blue", "circle"), ("yellow", "square"), ("red", "triangle")})
"""The (colour, shape) combinations kept from training: one a shape, so that colours stay uniform given the shape."""
NEUTRAL_COLOURS = tuple(colour for colour in COLOURS if colour not in {held for held, _ in HELD_OUT})
"""Colours that come in every shape in training: only they may be named where a shape is asked for."""

FEWEST, MOST = 3, 6
# At 64 pixels; a small square (11 x 11) still has less area than a large triangle (16 x 16 / 2).
_EXTENTS = {"small": (9, 11), "large": (16, 18)}
_REFERENCE_SIDE = 64
_PLACING_TRIES = 40
# How often a shape repeats the colour and shape of an earlier one: without twins nothing needs comparing.
_TWIN_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Shape:
    """One drawn shape; its box is (x, y, extent, extent), the exact extents of the ideal outline."""

    shape: str
    colour: str
    size: str
    x: int
    y: int
    extent: int

    @property
    def cx(self) -> float:
        return self.x + self.extent / 2

    @property
    def cy(self) -> float:
        return self.y + self.extent / 2

    @property
    def held_out(self) -> bool:
        return (self.colour, self.shape) in HELD_OUT


class Filter(NamedTuple):
    """The properties that a noun phrase demands of a shape; None demands nothing."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def admits(self, shape: Shape) -> bool:
        return (
            self.size in (None, shape.size)
            and self.colour in (None, shape.colour)
            and self.shape in (None, shape.shape)
        )


@cache
def _filters(size: str, colour: str, shape: str) -> tuple[Filter, ...]:
    return tuple(Filter(s, c, k) for s in (size, None) for c in (colour, None) for k in (shape, None))


@dataclass(frozen=True)
class Scene:
    """The shapes of one square image of `side` pixels; no two boxes touch."""

    side: int
    shapes: tuple[Shape, ...]

    @cached_property
    def _members(self) -> dict[Filter, tuple[int, ...]]:
        table: dict[Filter, list[int]] = {}
        for index, shape in enumerate(self.shapes):
            for wanted in _filters(shape.size, shape.colour, shape.shape):
                table.setdefault(wanted, []).append(index)
        return {wanted: tuple(indices) for wanted, indices in table.items()}

    @cached_property
    def _names(self) -> tuple[tuple[Filter, ...], ...]:
        return tuple(
            tuple(wanted for wanted in self.filters(index) if len(self._members[wanted]) == 1)
            for index in range(len(self.shapes))
        )

    def members(self, wanted: Filter) -> tuple[int, ...]:
        """The indices of the shapes that `wanted` admits."""
        return self._members.get(wanted, ())

    def filters(self, index: int) -> tuple[Filter, ...]:
        """The eight filters that admit shape `index`, from all three properties to none."""
        shape = self.shapes[index]
        return _filters(shape.size, shape.colour, shape.shape)

    def names(self, index: int) -> tuple[Filter, ...]:
        """The filters that admit shape `index` and no other."""
        return self._names[index]

    @property
    def clear(self) -> float:
        """The distance of centres, in pixels, from which "left of" and its like leave no doubt."""
        return self.side * 3 / 32


def draw_scene(rng: random.Random, side: int, *, novel: bool = False, most: int = MOST) -> Scene:
    """A scene of 3 to `most` shapes.

    Colours and shapes are both uniform. Without `novel` no held-out combination occurs; with it the first shape is
    of one, and the others are drawn from all eighteen.
    """
    while True:
        kinds: list[tuple[str, str, str]] = []
        for _ in range(rng.randint(FEWEST, most)):
            colour, shape = _combination(rng, novel, kinds)
            kinds.append((shape, colour, rng.choice(SIZES)))
        placed = _place(rng, side, kinds)
        if placed is not None:
            return Scene(side, placed)


def _combination(rng: random.Random, novel: bool, earlier: list[tuple[str, str, str]]) -> tuple[str, str]:
    if novel and not earlier:
        return rng.choice(sorted(HELD_OUT))
    if earlier and rng.random() < _TWIN_SHARE:
        shape, colour, _ = rng.choice(earlier)
        return colour, shape
    colour = rng.choice(tuple(COLOURS))
    return colour, rng.choice([shape for shape in SHAPES if novel or (colour, shape) not in HELD_OUT])


def _place(rng: random.Random, side: int, kinds: list[tuple[str, str, str]]) -> tuple[Shape, ...] | None:
    margin = max(2, side // 32)
    placed: list[Shape] = []
    for shape, colour, size in kinds:
        low, high = _EXTENTS[size]
        extent = round(rng.randint(low, high) * side / _REFERENCE_SIDE)
        for _ in range(_PLACING_TRIES):
            # rng.random() is several times faster than rng.randint, and this is the innermost loop.
            x = 1 + int(rng.random() * (side - 1 - extent))
            y = 1 + int(rng.random() * (side - 1 - extent))
            if all(
                x >= other.x + other.extent + margin
                or other.x >= x + extent + margin
                or y >= other.y + other.extent + margin
                or other.y >= y + extent + margin
                for other in placed
            ):
                placed.append(Shape(shape, colour, size, x, y, extent))
                break
        else:
            return None
    return tuple(placed)
