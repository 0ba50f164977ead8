"""Questions with programs in CLEVR's function language, balanced so that words alone tell next to nothing.

Question and answer are drawn together, first and uniformly; then the question waits until an image comes by in which
that answer is true (`QuestionPool`). So every wording that occurs has its answers in equal shares. A question for a
shape names only the colours that come in all shapes, and none asks for a combination held out from training.

Images are flat: "behind" is higher up and "front" lower down; the words are "above" and "below".
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laconvnet.shards.synthetic.interpreter import PLURALS, RELATIONS, SIZE_WORDS, Program, execute
from laconvnet.shards.synthetic.scene import COLOURS, HELD_OUT, NEUTRAL_COLOURS, SHAPES, SIZES, Filter, Scene

FAMILIES: dict[str, int] = {
    "query_color": 15,
    "query_shape": 15,
    "query_size": 15,
    "exist": 20,
    "count": 15,
    "equal_color": 4,
    "equal_shape": 4,
    "equal_size": 4,
    "greater_than": 3,
    "less_than": 3,
    "equal_integer": 2,
}
"""The families, `question_family_index` being the position in this order, with their shares in per cent."""
OPEN_FAMILIES = ("query_color", "query_shape", "query_size", "count")
"""What Visual Genome asks: its questions begin with what, where, how and the like, never with a verb."""

VALUES: dict[str, tuple[str, ...]] = {"color": tuple(COLOURS), "shape": SHAPES, "size": SIZES}
_FIELDS = {"color": "colour", "shape": "shape", "size": "size"}
COUNTS = ("0", "1", "2", "3")
YES_NO = ("yes", "no")
CLEVR_RELATION = {"left": "left", "right": "right", "top": "behind", "bottom": "front"}

_RELATION_SHARE = 0.3
_WAITING = 400
_FRESH_TRIES = 60


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its program and its answer in CLEVR's spelling ("yes", "2", "cyan")."""

    family: str
    text: str
    program: Program
    answer: str


@dataclass(frozen=True, slots=True)
class _Order:
    """A question wanted: the family, the answer and what it names; None in `names` is chosen from the image."""

    family: str
    answer: str
    names: tuple[Filter, ...] = ()
    dimensions: tuple[str, ...] = ()
    side: str | None = None


class QuestionPool:
    """Hands out questions for one image after another; what no image has answered yet waits for the next."""

    def __init__(self, rng: random.Random, families: Sequence[str] = tuple(FAMILIES)) -> None:
        self._rng = rng
        self._families = list(families)
        self._weights = [FAMILIES[family] for family in families]
        self._waiting: list[_Order] = []

    def questions(self, scene: Scene, clevr_scene: Mapping[str, Any], number: int) -> list[Question]:
        """At most `number` different questions on a scene; fewer only where the scene answers no more."""
        questions: list[Question] = []
        waiting: list[_Order] = []
        orders = iter(self._waiting)
        for order in orders:
            if len(questions) == number or not self._ask(order, scene, clevr_scene, questions):
                waiting.append(order)
        tries = 0
        while len(questions) < number and tries < _FRESH_TRIES * number:
            tries += 1
            order = self._order()
            if not self._ask(order, scene, clevr_scene, questions):
                waiting.append(order)
        # The oldest that no image would answer are dropped.
        self._waiting = waiting[-_WAITING:]
        return questions

    def _ask(self, order: _Order, scene: Scene, clevr_scene: Mapping[str, Any], questions: list[Question]) -> bool:
        drafted = _BUILDERS[order.family](self._rng, scene, order)
        if drafted is None or any(drafted[1] == question.program for question in questions):
            return False
        text, program = drafted
        answer = execute(program, clevr_scene)
        assert answer == order.answer, f"{text!r} is answered {answer!r}, meant was {order.answer!r}"
        questions.append(Question(order.family, text, program, order.answer))
        return True

    def _order(self) -> _Order:
        rng = self._rng
        family = rng.choices(self._families, self._weights)[0]
        head, _, attribute = family.partition("_")
        match head:
            case "query":
                side = rng.choice(tuple(RELATIONS)) if rng.random() < _RELATION_SHARE else None
                subject = _named(rng, attribute, rng.choice(_SUBJECTS[attribute]))
                answers = [value for value in VALUES[attribute] if (value, subject.shape) not in HELD_OUT]
                return _Order(family, rng.choice(answers), (subject,), side=side)
            case "exist":
                return _Order(family, rng.choice(YES_NO), (_named(rng, "", rng.choice(_THINGS)),))
            case "count":
                return _Order(family, rng.choice(COUNTS), (_named(rng, "", rng.choice(_COUNTED)),))
            case _ if attribute in VALUES:
                return _Order(family, rng.choice(YES_NO), dimensions=rng.choice(_COMPARED[attribute]))
            case _:
                first, second = rng.sample(VALUES[rng.choice(("shape", "color"))], 2)
                return _Order(family, rng.choice(YES_NO), (_filter(first), _filter(second)))


# Which properties may be named, by what is asked for.
_SUBJECTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "color": (("shape",), ("size", "shape"), ("size", "shape")),
    "shape": (("color",), ("size", "color"), ("size", "color")),
    "size": (("shape",), ("color",), ("color", "shape"), ("color", "shape")),
}
_COMPARED: dict[str, tuple[tuple[str, ...], ...]] = {
    "color": (("shape",), ("size", "shape")),
    "shape": (("color",), ("size", "color")),
    "size": (("shape",), ("color", "shape")),
}
_THINGS: tuple[tuple[str, ...], ...] = (
    ("shape",),
    ("color",),
    ("color", "shape"),
    ("size", "shape"),
    ("size", "color"),
    ("size", "color", "shape"),
)
_COUNTED: tuple[tuple[str, ...], ...] = (("shape",), ("color",), ("size", "shape"))


def _filter(value: str) -> Filter:
    return Filter(shape=value) if value in SHAPES else Filter(colour=value)


def _named(rng: random.Random, attribute: str, dimensions: Sequence[str]) -> Filter:
    while True:
        colours = NEUTRAL_COLOURS if attribute == "shape" else tuple(COLOURS)
        wanted = Filter(
            rng.choice(SIZES) if "size" in dimensions else None,
            rng.choice(colours) if "color" in dimensions else None,
            rng.choice(SHAPES) if "shape" in dimensions else None,
        )
        if (wanted.colour, wanted.shape) not in HELD_OUT:
            return wanted


def _noun(rng: random.Random, wanted: Filter, *, plural: bool = False) -> str:
    words = [rng.choice(SIZE_WORDS[wanted.size][:2])] if wanted.size else []
    words += [wanted.colour] if wanted.colour else []
    return " ".join([*words, PLURALS[wanted.shape][0] if plural else (wanted.shape or "thing")])


class _Steps:
    """A program under construction; every method appends a step and returns its index."""

    def __init__(self) -> None:
        self.program: Program = []

    def add(self, function: str, *inputs: int, value: str | None = None) -> int:
        values = [] if value is None else [value]
        self.program.append({"inputs": list(inputs), "function": function, "value_inputs": values})
        return len(self.program) - 1

    def filtered(self, wanted: Filter, start: int | None = None) -> int:
        index = self.add("scene") if start is None else start
        for name, value in (("size", wanted.size), ("color", wanted.colour), ("shape", wanted.shape)):
            if value is not None:
                index = self.add(f"filter_{name}", index, value=value)
        return index

    def unique(self, wanted: Filter) -> int:
        return self.add("unique", self.filtered(wanted))


_Draft = tuple[str, Program]
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "greater_than": operator.gt,
    "less_than": operator.lt,
    "equal_integer": operator.eq,
}


def _query(rng: random.Random, scene: Scene, order: _Order) -> _Draft | None:
    attribute = order.family.removeprefix("query_")
    (subject,) = order.names
    steps = _Steps()
    if order.side is None:
        members = scene.members(subject)
        if len(members) != 1 or getattr(scene.shapes[members[0]], _FIELDS[attribute]) != order.answer:
            return None
        noun = _noun(rng, subject)
        steps.add(order.family, steps.unique(subject))
    else:
        landmark = _landmark(rng, scene, order, _FIELDS[attribute])
        if landmark is None:
            return None
        noun = f"{_noun(rng, subject)} {rng.choice(RELATIONS[order.side][:2])} the {_noun(rng, landmark)}"
        side = steps.add("relate", steps.unique(landmark), value=CLEVR_RELATION[order.side])
        steps.add(order.family, steps.add("unique", steps.filtered(subject, side)))
    return rng.choice((f"What {attribute} is the {noun}?", f"What is the {attribute} of the {noun}?")), steps.program


def _landmark(rng: random.Random, scene: Scene, order: _Order, field: str) -> Filter | None:
    """The name of a shape that has just one subject, the answer's, on the side, with no doubt about any other.

    It never tells the property asked for: twins are common, so the landmark's would be the best guess.
    """
    assert order.side is not None
    members = scene.members(order.names[0])
    answering = {other for other in members if getattr(scene.shapes[other], field) == order.answer}
    if not answering:
        return None
    for mark in rng.sample(range(len(scene.shapes)), len(scene.shapes)):
        offsets = {other: _signed(scene, other, mark, order.side) for other in members if other != mark}
        names = [name for name in scene.names(mark) if getattr(name, field) is None]
        there = [other for other, offset in offsets.items() if offset > 0]
        clear = all(abs(offset) >= scene.clear for offset in offsets.values())
        if names and clear and len(there) == 1 and there[0] in answering:
            return rng.choice(names)
    return None


def _signed(scene: Scene, index: int, mark: int, side: str) -> float:
    shape, other = scene.shapes[index], scene.shapes[mark]
    difference = shape.cx - other.cx if side in ("left", "right") else shape.cy - other.cy
    return difference if side in ("right", "bottom") else -difference


def _exist(rng: random.Random, scene: Scene, order: _Order) -> _Draft | None:
    (wanted,) = order.names
    if bool(scene.members(wanted)) != (order.answer == "yes"):
        return None
    steps = _Steps()
    steps.add("exist", steps.filtered(wanted))
    text = rng.choice((f"Is there a {_noun(rng, wanted)}?", f"Are there any {_noun(rng, wanted, plural=True)}?"))
    return text, steps.program


def _count(rng: random.Random, scene: Scene, order: _Order) -> _Draft | None:
    (wanted,) = order.names
    if len(scene.members(wanted)) != int(order.answer):
        return None
    steps = _Steps()
    steps.add("count", steps.filtered(wanted))
    noun = _noun(rng, wanted, plural=True)
    return rng.choice((f"How many {noun} are there?", f"What number of {noun} are there?")), steps.program


def _equal(rng: random.Random, scene: Scene, order: _Order) -> _Draft | None:
    attribute = order.family.removeprefix("equal_")
    found: list[tuple[int, Filter]] = []
    for index in rng.sample(range(len(scene.shapes)), len(scene.shapes)):
        shape = scene.shapes[index]
        wanted = Filter(
            shape.size if "size" in order.dimensions else None,
            shape.colour if "color" in order.dimensions else None,
            shape.shape if "shape" in order.dimensions else None,
        )
        if attribute == "shape" and wanted.colour not in NEUTRAL_COLOURS:
            continue
        if len(scene.members(wanted)) == 1:
            found.append((index, wanted))
    field = _FIELDS[attribute]
    pairs = [
        (first, second)
        for position, (one, first) in enumerate(found)
        for other, second in found[position + 1 :]
        if (getattr(scene.shapes[one], field) == getattr(scene.shapes[other], field)) == (order.answer == "yes")
    ]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    steps = _Steps()
    values = [steps.add(f"query_{attribute}", steps.unique(wanted)) for wanted in (first, second)]
    steps.add(order.family, *values)
    one, other = _noun(rng, first), _noun(rng, second)
    text = rng.choice(
        (
            f"Is the {one} the same {attribute} as the {other}?",
            f"Do the {one} and the {other} have the same {attribute}?",
        )
    )
    return text, steps.program


def _number(rng: random.Random, scene: Scene, order: _Order) -> _Draft | None:
    first, second = order.names
    one_count, other_count = len(scene.members(first)), len(scene.members(second))
    if not one_count + other_count or _COMPARE[order.family](one_count, other_count) != (order.answer == "yes"):
        return None
    steps = _Steps()
    steps.add(order.family, *[steps.add("count", steps.filtered(wanted)) for wanted in order.names])
    one, other = _noun(rng, first, plural=True), _noun(rng, second, plural=True)
    text = {
        "greater_than": f"Are there more {one} than {other}?",
        "less_than": f"Are there fewer {one} than {other}?",
        "equal_integer": f"Is the number of {one} the same as the number of {other}?",
    }[order.family]
    return text, steps.program


_BUILDERS: dict[str, Callable[[random.Random, Scene, _Order], _Draft | None]] = {
    "query_color": _query,
    "query_shape": _query,
    "query_size": _query,
    "exist": _exist,
    "count": _count,
    "equal_color": _equal,
    "equal_shape": _equal,
    "equal_size": _equal,
    "greater_than": _number,
    "less_than": _number,
    "equal_integer": _number,
}
