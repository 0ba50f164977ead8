"""Referring expressions of a scene: the kind is drawn first, then a phrase of that kind, then its words.

Left to chance, relations would fall to a few per cent. A phrase is used only where it leaves no doubt: positions
differ by a margin that an eye sees, and the interpreter finds exactly the referent in the finished text.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from laconvnet.shards.synthetic.interpreter import (
    COMPARATIVES,
    EXTREMES,
    NOUNS,
    PAIR_SIDES,
    PLURALS,
    RELATIONS,
    SIZE_WORDS,
    SUPERLATIVES,
    Phrase,
    parse,
    resolve,
)
from laconvnet.shards.synthetic.scene import Filter, Scene, Shape

_Item = TypeVar("_Item")
_Landmark = tuple[int, str, Filter]

SIDES = ("left", "right", "top", "bottom")
_SENTENCE_TRIES = 6
_KINDS_TRIES = 12
_MOST_WAITING = 24
_SENTENCES = ((2, 3), (60, 40))  # how many expressions a referent has, and in what shares


@dataclass(frozen=True, slots=True)
class Style:
    """The language of a data set: the shares of the kinds of expression, and whether they are whole sentences."""

    mix: dict[str, float]
    long: bool = False


STYLES = {
    "refcoco": Style({"attribute": 40, "extremum": 25, "relation": 25, "comparison": 10}),
    "refcoco+": Style({"attribute": 70, "comparison": 30}),
    "refcocog": Style({"attribute": 25, "extremum": 20, "relation": 45, "comparison": 10}, long=True),
    "visual_genome": Style({"attribute": 50, "extremum": 10, "relation": 30, "comparison": 10}),
}


class Speaker:
    """Speaks of one image after another in a style; kinds that no shape of an image allows wait for the next.

    Only so do the shares hold: comparisons, which need a twin of another size, would be dropped most often.
    """

    def __init__(self, style: Style) -> None:
        self._style = style
        self._waiting: list[list[str]] = []

    def refer(self, rng: random.Random, scene: Scene, candidates: Sequence[int]) -> tuple[int, list[str]] | None:
        """A referent among `candidates` and two or three expressions for it; None where the scene has none."""
        for position, kinds in enumerate(self._waiting):
            found = _referent(rng, scene, candidates, kinds, self._style.long)
            if found is not None:
                del self._waiting[position]
                return found
        for _ in range(_KINDS_TRIES):
            kinds = rng.choices(list(self._style.mix), list(self._style.mix.values()), k=rng.choices(*_SENTENCES)[0])
            found = _referent(rng, scene, candidates, kinds, self._style.long)
            if found is not None:
                return found
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(kinds)
        return None


def _referent(
    rng: random.Random, scene: Scene, candidates: Sequence[int], kinds: list[str], long: bool
) -> tuple[int, list[str]] | None:
    for index in _shuffled(rng, candidates):
        texts: list[str] = []
        # Comparisons come first, for they fail most often; the final order is drawn afterwards.
        for kind in sorted(kinds, key="comparison".__ne__):
            text = _fresh(rng, scene, index, kind, long, texts)
            if text is None:
                break
            texts.append(text)
        else:
            return index, _shuffled(rng, texts)
    return None


def express(rng: random.Random, scene: Scene, index: int, kind: str, *, long: bool = False) -> str | None:
    """One expression of the kind for shape `index`, checked by the interpreter; None where none was found."""
    phrase = _SAMPLERS[kind](rng, scene, index, long)
    if phrase is None:
        return None
    text = _worded(rng, phrase, long)
    assert parse(text) == phrase, f"{text!r} reads as {parse(text)}, meant was {phrase}"
    assert resolve(phrase, scene) == {index}, f"{text!r} does not denote shape {index} of {scene}"
    return text


def _fresh(rng: random.Random, scene: Scene, index: int, kind: str, long: bool, used: list[str]) -> str | None:
    for _ in range(_SENTENCE_TRIES):
        text = express(rng, scene, index, kind, long=long)
        if text is None:
            return None
        if text not in used:
            return text
    return None


def _attribute(rng: random.Random, scene: Scene, index: int, long: bool) -> Phrase | None:
    names = scene.names(index)
    if not names:
        return None
    # The first name is the fullest: whole sentences tend to say everything.
    return Phrase("name", names[0] if long and rng.random() < 0.7 else rng.choice(names))


def _extremum(rng: random.Random, scene: Scene, index: int, long: bool) -> Phrase | None:
    for wanted in _shuffled(rng, scene.filters(index)):
        rivals = [scene.shapes[other] for other in scene.members(wanted) if other != index]
        if not rivals:
            continue
        for side in _shuffled(rng, SIDES):
            forms = _extreme_forms(scene, scene.shapes[index], rivals, side, long)
            if forms:
                return Phrase(rng.choice(forms), wanted, side)
    return None


def _extreme_forms(scene: Scene, shape: Shape, rivals: list[Shape], side: str, long: bool) -> list[str]:
    gap = scene.side / 16
    edge = _edge(shape, side)
    ahead = all(_ahead(shape, rival, side) >= gap and edge < _edge(rival, side) for rival in rivals)
    if not ahead:
        return []
    forms = ["extreme"]
    if len(rivals) == 1 and not long:
        forms.append("pair")
    centre = Shape("", "", "", scene.side // 2, scene.side // 2, scene.side % 2)
    if _ahead(shape, centre, side) >= gap / 2 and all(_ahead(centre, rival, side) >= gap / 2 for rival in rivals):
        forms.append("half")
    return forms


def _relation(rng: random.Random, scene: Scene, index: int, long: bool) -> Phrase | None:
    landmarks = _landmarks(rng, scene, index)
    if long and rng.random() < 0.5:
        every = list(landmarks)
        # "left of this and left of that" says less than it seems to: one clause along each axis.
        pairs = [(one, two) for one in every for two in every if one[1] in SIDES[:2] and two[1] in SIDES[2:]]
        found = _related(rng, scene, index, pairs)
        if found is not None:
            return found
        landmarks = iter(every)
    return _related(rng, scene, index, ((landmark,) for landmark in landmarks))


def _related(rng: random.Random, scene: Scene, index: int, choices: Iterable[tuple[_Landmark, ...]]) -> Phrase | None:
    # A relation that is needed comes before one that only adds to a name: hence the stable sort.
    filters = sorted(_shuffled(rng, scene.filters(index)), key=lambda wanted: len(scene.members(wanted)) == 1)
    for chosen in choices:
        excluded = [
            other == index or any(_clearly_not(scene, other, mark, side) for mark, side, _ in chosen)
            for other in range(len(scene.shapes))
        ]
        for wanted in filters:
            if all(excluded[other] for other in scene.members(wanted)):
                return Phrase("relation", wanted, clauses=tuple((side, name) for _, side, name in chosen))
    return None


def _landmarks(rng: random.Random, scene: Scene, index: int) -> Iterator[_Landmark]:
    """The shapes with a name of their own that shape `index` is clearly beside: their index, the side, a name."""
    for other in _shuffled(rng, range(len(scene.shapes))):
        names = scene.names(other)
        if other != index and names:
            sides = _beside(scene, index, other)
            if sides:
                yield other, rng.choice(sides), rng.choice(names)


def _comparison(rng: random.Random, scene: Scene, index: int, long: bool) -> Phrase | None:
    size = scene.shapes[index].size
    for wanted in _shuffled(rng, [wanted for wanted in scene.filters(index) if wanted.size is None]):
        rivals = [other for other in scene.members(wanted) if other != index]
        if rivals and all(scene.shapes[other].size != size for other in rivals):
            return Phrase("more" if len(rivals) == 1 and rng.random() < 0.6 else "most", wanted, size)
    return None


_SAMPLERS = {
    "attribute": _attribute,
    "extremum": _extremum,
    "relation": _relation,
    "comparison": _comparison,
}


def _ahead(shape: Shape, other: Shape, side: str) -> float:
    """By how many pixels the centre of `shape` is further to the side than that of `other`."""
    difference = shape.cx - other.cx if side in ("left", "right") else shape.cy - other.cy
    return difference if side in ("right", "bottom") else -difference


def _edge(shape: Shape, side: str) -> int:
    """The coordinate of the foremost edge of a shape, smaller the further it is to the side."""
    near = shape.x if side in ("left", "right") else shape.y
    return near if side in ("left", "top") else -near - shape.extent


def _beside(scene: Scene, index: int, landmark: int) -> list[str]:
    """The sides of the landmark that anyone would say a shape is on: clearly, and not mostly on another."""
    shape, mark = scene.shapes[index], scene.shapes[landmark]
    right, down = shape.cx - mark.cx, shape.cy - mark.cy
    sides = []
    if abs(right) >= max(scene.clear, abs(down) / 2):
        sides.append("right" if right > 0 else "left")
    if abs(down) >= max(scene.clear, abs(right) / 2):
        sides.append("bottom" if down > 0 else "top")
    return sides


def _clearly_not(scene: Scene, index: int, landmark: int, side: str) -> bool:
    return index == landmark or _ahead(scene.shapes[landmark], scene.shapes[index], side) >= scene.clear


def _shuffled(rng: random.Random, items: Sequence[_Item]) -> list[_Item]:
    # Several times faster than rng.sample, and called for every expression tried.
    return sorted(items, key=lambda _: rng.random())


def _noun_phrase(rng: random.Random, wanted: Filter, long: bool, *, plural: bool = False) -> str:
    nouns = (PLURALS if plural else NOUNS)[wanted.shape]
    words = [rng.choice(nouns[:2] if long else nouns)]
    if wanted.colour:
        words.insert(0, wanted.colour)
    if wanted.size:
        words.insert(0, rng.choice(SIZE_WORDS[wanted.size]))
    return " ".join(words)


def _worded(rng: random.Random, phrase: Phrase, long: bool) -> str:
    definite = "the " if long or rng.random() < 0.5 else ""
    article = rng.choice(("the ", "a ")) if long else definite
    tail = " in the picture" if long and rng.random() < 0.6 else ""
    noun = _noun_phrase(rng, phrase.filter, long)
    match phrase.form:
        case "name":
            size, colour, shape = phrase.filter
            if long and size and colour and rng.random() < 0.3:
                return f"{article}{rng.choice(NOUNS[shape][:2])} that is {rng.choice(SIZE_WORDS[size])} and {colour}"
            return f"{article}{noun}{tail}"
        case "extreme":
            return f"{definite}{rng.choice(EXTREMES[phrase.value])} {noun}{tail}"
        case "pair":
            return f"{definite}{rng.choice(PAIR_SIDES[phrase.value])} {noun}"
        case "half":
            where = f"{'on' if phrase.value in ('left', 'right') else rng.choice(('on', 'at'))} the {phrase.value}"
            if not long:
                return f"{definite}{noun} {where}"
            side = " side" if phrase.value in ("left", "right") else ""
            return f"{article}{noun} {rng.choice(('', 'that is '))}{where}{side} of the picture"
        case "relation":
            marks = " and ".join(
                f"{rng.choice(RELATIONS[side])} the {_noun_phrase(rng, name, long)}" for side, name in phrase.clauses
            )
            return f"{article}{noun} {rng.choice(('that is ', 'which is ')) if long else ''}{marks}"
        case "most":
            return f"{definite}{rng.choice(SUPERLATIVES[phrase.value])} {noun}{tail}"
        case _:
            word = rng.choice(COMPARATIVES[phrase.value])
            if not long and rng.random() < 0.6:
                return f"{definite}{word} {noun}"
            pair = _noun_phrase(rng, phrase.filter, long, plural=True)
            return f"the {word} {'one ' if long else ''}of the two {pair}{tail}"
