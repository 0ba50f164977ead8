"""The meaning of an expression or a program: a literal reading of texts, apart from the code that writes them.

Every expression written is read back here (`parse`, `resolve`) and every question's program is run (`execute`), so
that nothing gets out whose words point at anything but the annotated shape.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from laconvnet.shards.synthetic.scene import COLOURS, Filter, Scene, Shape

NOUNS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    None: ("thing", "shape", "object", "one"),
}
PLURALS = {
    "circle": ("circles",),
    "square": ("squares",),
    "triangle": ("triangles",),
    None: ("things", "shapes", "objects"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
EXTREMES = {
    "left": ("leftmost", "far left"),
    "right": ("rightmost", "far right"),
    "top": ("topmost", "highest"),
    "bottom": ("lowest", "bottommost"),
}
PAIR_SIDES = {"left": ("left",), "right": ("right",), "top": ("top", "upper"), "bottom": ("bottom", "lower")}
RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "top": ("above", "over"),
    "bottom": ("below", "under", "beneath"),
}
SUPERLATIVES = {"large": ("biggest", "largest"), "small": ("smallest",)}
COMPARATIVES = {"large": ("bigger", "larger"), "small": ("smaller",)}


@dataclass(frozen=True, slots=True)
class Phrase:
    """The meaning of an expression.

    form      value      picks, of the shapes that `filter` admits,
    name                 the only one
    extreme   direction  the one strictly furthest in the direction
    pair      direction  the further one of exactly two
    half      direction  the only one whose centre lies in that half of the image
    relation             the only one that stands in every relation of `clauses` to the clause's own only one
    most      size       the one strictly largest (or smallest)
    more      size       the larger (smaller) one of exactly two
    """

    form: str
    filter: Filter
    value: str = ""
    clauses: tuple[tuple[str, Filter], ...] = ()


KIND_OF_FORM = {
    "name": "attribute",
    "extreme": "extremum",
    "pair": "extremum",
    "half": "extremum",
    "relation": "relation",
    "most": "comparison",
    "more": "comparison",
}


def _inverse(words: Mapping[Any, Sequence[str]]) -> dict[str, Any]:
    return {word: value for value, synonyms in words.items() for word in synonyms}


def _any(words: Mapping[Any, Sequence[str]] | Sequence[str]) -> str:
    every = _inverse(words) if isinstance(words, Mapping) else words
    return "|".join(sorted(every, key=len, reverse=True))


def _np(number: str = "", nouns: Mapping[Any, Sequence[str]] = NOUNS) -> str:
    return (
        f"(?:(?P<size{number}>{_any(SIZE_WORDS)}) )?(?:(?P<colour{number}>{_any(tuple(COLOURS))}) )?"
        f"(?P<noun{number}>{_any(nouns)})"
    )


_IN_PICTURE = "(?: in the picture)?"
_GRAMMAR: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (form, re.compile(pattern))
    for form, pattern in (
        ("name", f"(?:the |a )?{_np()}{_IN_PICTURE}"),
        (
            "name",
            f"(?:the |a )?(?P<noun>{_any(NOUNS)}) that is "
            f"(?P<size>{_any(SIZE_WORDS)}) and (?P<colour>{_any(tuple(COLOURS))})",
        ),
        ("extreme", f"(?:the )?(?P<value>{_any(EXTREMES)}) {_np()}{_IN_PICTURE}"),
        ("pair", f"(?:the )?(?P<value>{_any(PAIR_SIDES)}) {_np()}"),
        (
            "half",
            f"(?:the |a )?{_np()} (?:that is )?(?:on|at) the (?P<value>left|right|top|bottom)"
            f"(?: side)?(?: of the picture)?",
        ),
        (
            "relation",
            f"(?:the |a )?{_np()} (?:(?:that|which) is )?(?P<relation1>{_any(RELATIONS)}) the {_np('1')}"
            f"(?: and (?P<relation2>{_any(RELATIONS)}) the {_np('2')})?",
        ),
        ("most", f"(?:the )?(?P<value>{_any(SUPERLATIVES)}) {_np()}{_IN_PICTURE}"),
        ("more", f"(?:the )?(?P<value>{_any(COMPARATIVES)}) {_np()}"),
        (
            "more",
            f"(?:the )?(?P<value>{_any(COMPARATIVES)}) (?:one )?of the two {_np(nouns=PLURALS)}{_IN_PICTURE}",
        ),
    )
)
_VALUES: dict[str, dict[str, Any]] = {
    "name": {},
    "relation": {},
    "extreme": _inverse(EXTREMES),
    "pair": _inverse(PAIR_SIDES),
    "half": {side: side for side in EXTREMES},
    "most": _inverse(SUPERLATIVES),
    "more": _inverse(COMPARATIVES),
}
_SHAPE_OF_NOUN = _inverse(NOUNS) | _inverse(PLURALS)
_SIZE_OF_WORD = _inverse(SIZE_WORDS)
_SIDE_OF_RELATION = _inverse(RELATIONS)


@lru_cache(maxsize=1 << 16)
def parse(text: str) -> Phrase:
    """The one meaning of an expression; raises ValueError where the grammar gives none or several."""
    readings = {_meaning(form, match) for form, pattern in _GRAMMAR if (match := pattern.fullmatch(text))}
    if len(readings) != 1:
        raise ValueError(f"expression {text!r}: {len(readings)} readings, expected one")
    return readings.pop()


def _meaning(form: str, match: re.Match[str]) -> Phrase:
    groups = match.groupdict()

    def filtered(number: str = "") -> Filter:
        size = groups[f"size{number}"]
        return Filter(
            _SIZE_OF_WORD[size] if size else None, groups[f"colour{number}"], _SHAPE_OF_NOUN[groups[f"noun{number}"]]
        )

    clauses = tuple(
        (_SIDE_OF_RELATION[groups[f"relation{number}"]], filtered(number))
        for number in "12"
        if groups.get(f"relation{number}")
    )
    value = _VALUES[form][groups["value"]] if "value" in groups else ""
    return Phrase(form, filtered(), value, clauses)


def resolve(phrase: Phrase, scene: Scene) -> frozenset[int]:
    """The indices of the shapes that a phrase denotes in a scene, by literal set semantics; no margins."""
    shapes = scene.shapes
    admitted = [index for index, shape in enumerate(shapes) if phrase.filter.admits(shape)]
    match phrase.form:
        case "name":
            picked = admitted
        case "extreme":
            picked = _strictly_first(admitted, [_along(shape, phrase.value) for shape in shapes])
        case "pair":
            picked = _strictly_first(admitted, [_along(shape, phrase.value) for shape in shapes])
            picked = picked if len(admitted) == 2 else []
        case "half":
            middle = scene.side / 2 if phrase.value in ("left", "top") else -scene.side / 2
            picked = [index for index in admitted if _along(shapes[index], phrase.value) < middle]
        case "relation":
            picked = [
                index
                for index in admitted
                if all(_stands(scene, shapes[index], side, landmark) for side, landmark in phrase.clauses)
            ]
        case "most" | "more":
            sign = -1 if phrase.value == "large" else 1
            picked = _strictly_first(admitted, [sign * shape.extent for shape in shapes])
            picked = picked if phrase.form == "most" or len(admitted) == 2 else []
        case _:
            raise ValueError(f"phrase of an unknown form {phrase.form!r}")
    return frozenset(picked)


def _along(shape: Shape, side: str) -> float:
    """Where a centre lies, smaller the nearer to the side."""
    return {"left": shape.cx, "right": -shape.cx, "top": shape.cy, "bottom": -shape.cy}[side]


def _strictly_first(indices: list[int], keys: Sequence[float]) -> list[int]:
    return [index for index in indices if all(keys[index] < keys[other] for other in indices if other != index)]


def _stands(scene: Scene, shape: Shape, side: str, landmark: Filter) -> bool:
    marks = [other for other in scene.shapes if landmark.admits(other)]
    return len(marks) == 1 and _along(shape, side) < _along(marks[0], side)


Program = list[dict[str, Any]]

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "equal_color": operator.eq,
    "equal_shape": operator.eq,
    "equal_size": operator.eq,
    "equal_integer": operator.eq,
    "greater_than": operator.gt,
    "less_than": operator.lt,
}


def execute(program: Program, scene: Mapping[str, Any]) -> str:
    """Run a CLEVR program on a scene of CLEVR's scene file; returns the answer as CLEVR writes it.

    Raises ValueError where `unique` meets none or several objects: the question has no answer then.
    """
    objects = scene["objects"]
    results: list[Any] = []
    for step in program:
        function = step["function"]
        inputs = [results[index] for index in step["inputs"]]
        values = step["value_inputs"]
        head, _, rest = function.partition("_")
        if function == "scene":
            result: Any = list(range(len(objects)))
        elif head == "filter":
            result = [index for index in inputs[0] if objects[index][rest] == values[0]]
        elif function == "unique":
            if len(inputs[0]) != 1:
                raise ValueError(f"program: 'unique' of {len(inputs[0])} objects")
            result = inputs[0][0]
        elif function == "relate":
            result = scene["relationships"][values[0]][inputs[0]]
        elif function == "count":
            result = len(inputs[0])
        elif function == "exist":
            result = bool(inputs[0])
        elif head == "query":
            result = objects[inputs[0]][rest]
        elif function in _COMPARE:
            result = _COMPARE[function](*inputs)
        else:
            raise ValueError(f"program: unknown function {function!r}")
        results.append(result)
    answer = results[-1]
    return {True: "yes", False: "no"}[answer] if isinstance(answer, bool) else str(answer)
