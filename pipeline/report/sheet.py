"""Sheets of images: what a model got right and what it got wrong, with the answer drawn beside the truth."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from PIL import UnidentifiedImageError

from laconvnet.images import ImageLimitError, data_uri, opened
from laconvnet.pipeline.data.masks import Mask, decode
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.report.explained import WordMap, word_maps
from laconvnet.pipeline.report.failures import RULES, by_kind
from laconvnet.pipeline.report.gather import Evaluation
from laconvnet.pipeline.report.overlay import PREDICTED, TRUE, overlay
from laconvnet.pipeline.report.traits import traits
from laconvnet.pipeline.runs.layout import ANSWERS
from laconvnet.pipeline.tasks.rec import FOUND_ABOVE
from laconvnet.shards.errors import InputError
from laconvnet.shards.format.manifest import Manifest

Box = tuple[float, float, float, float]
Answer = Mapping[str, Any]

CARDS = 12  # of right answers, and about as many of wrong ones
_JUDGED = 1000  # as many wrong answers as that tell of which kinds they are
# What an answer holds (`pipeline.inference.evaluate` and the task's `answer` and `score`).
_BOXES = {"example", "text", "box", "truth", "iou"}
_MASKS = {"example", "text", "mask", "truth", "iou"}
_WORDS = {"example", "text", "answer", "truth", "correct"}
_KEPT_SIDE = 160  # an image up to this is embedded as it is and enlarged without smoothing
_LARGEST_SIDE = 480


@dataclass(frozen=True)
class Card:
    """One example. ``image`` is a data URI, masks are drawn in it; boxes are xywh in its pixels, clipped to it.

    ``traits`` are those of `pipeline.report.traits`, whether it is right or wrong as its ``outcome``, and of a wrong
    one the kind of its ``failure``. ``words`` are there where the evaluation has explained the example.
    """

    image: str
    alt: str
    width: int
    height: int
    text: str
    right: bool
    box: Box | None = None
    true_box: Box | None = None
    iou: float | None = None
    answer: str | None = None
    truth: str | None = None
    traits: Mapping[str, str] = field(default_factory=dict)
    words: tuple[WordMap, ...] = ()

    @property
    def crisp(self) -> bool:
        return max(self.width, self.height) <= _KEPT_SIDE


Form = Literal["boxes", "masks", "answers", "none"]


@dataclass(frozen=True)
class Kind:
    """A kind of wrong answers, the rule that makes one of it, and how many are."""

    name: str
    rule: str
    count: int


@dataclass(frozen=True)
class Sheet:
    """The cards of one result; ``note`` says in words why there are none. ``kinds`` are of the wrong answers."""

    form: Form = "none"
    right: tuple[Card, ...] = ()
    wrong: tuple[Card, ...] = ()
    rights: int = 0
    wrongs: int = 0
    kinds: tuple[Kind, ...] = ()
    note: str = ""


def sheet(evaluation: Evaluation, answers: Sequence[Mapping[str, Any]]) -> Sheet:
    """Some right and some wrong answers of each kind, spread evenly over the split: the same ones every time."""
    if not answers:
        return Sheet(note=f"{evaluation.file.with_suffix(ANSWERS)} is not there; the evaluation writes it.")
    form = _form(answers)
    if form == "none":
        return Sheet(note=f"Answers of the task {evaluation.task} are neither boxes, masks nor words.")
    try:
        manifest = Manifest.open(Path(evaluation.data))
        shown = chosen(manifest, answers)
        explained = word_maps(evaluation.file)
        right = tuple(_described(manifest, answer, explained) for answer in shown.right)
        wrong = tuple(
            _described(manifest, answer, explained, kind) for kind, some in shown.wrong.items() for answer in some
        )
    except (InputError, ConfigError, OSError) as error:
        return Sheet(note=f"The images cannot be shown: {error}")
    kinds = tuple(Kind(name, RULES[name], count) for name, count in shown.kinds.items())
    rights = sum(_is_right(answer) for answer in answers)
    return Sheet(form, right, wrong, rights, len(answers) - rights, kinds)


@dataclass(frozen=True)
class Chosen:
    """The answers that a sheet shows: right ones, wrong ones by kind; and how many wrong ones are of each kind."""

    right: list[Answer]
    wrong: dict[str, list[Answer]]
    kinds: dict[str, int]


def chosen(manifest: Manifest, answers: Sequence[Answer]) -> Chosen:
    """Of a result's answers, none where they cannot be judged. Raises InputError where the set is no longer theirs."""
    if _form(answers) == "none":
        return Chosen([], {}, {})
    rights = [answer for answer in answers if _is_right(answer)]
    wrongs = [answer for answer in answers if not _is_right(answer)]
    judged = spread(wrongs, _JUDGED)
    for answer in judged:
        _row(manifest, answer)
    found = by_kind(manifest, judged, answers)
    each = {kind: spread(some, -(-CARDS // len(found))) for kind, some in found.items()}
    return Chosen(spread(rights, CARDS), each, {kind: len(some) for kind, some in found.items()})


def drawn(manifest: Manifest, answers: Sequence[Mapping[str, Any]]) -> tuple[Form, list[Card]]:
    """What kind of answers these are, and a card of each; raises InputError for an image that cannot be shown."""
    form = _form(answers)
    return form, [] if form == "none" else [_card(manifest, answer) for answer in answers]


def spread(answers: Sequence[Answer], most: int) -> list[Answer]:
    """The middle of each of at most so many equal stretches."""
    count = min(most, len(answers))
    return [answers[(2 * number + 1) * len(answers) // (2 * count)] for number in range(count)]


def _form(answers: Sequence[Mapping[str, Any]]) -> Form:
    forms: dict[Form, set[str]] = {"boxes": _BOXES, "masks": _MASKS, "answers": _WORDS}
    return next((name for name, keys in forms.items() if all(answer.keys() >= keys for answer in answers)), "none")


def _is_right(answer: Mapping[str, Any]) -> bool:
    return bool(answer["correct"] if "correct" in answer else answer["iou"] > FOUND_ABOVE)


def _described(
    manifest: Manifest, answer: Answer, explained: Mapping[int, tuple[WordMap, ...]], kind: str | None = None
) -> Card:
    own = {"outcome": "right"} if kind is None else {"outcome": "wrong", "failure": kind}
    words = explained.get(int(answer["example"]), ())
    return replace(_card(manifest, answer), traits={**own, **traits(manifest, answer)}, words=words)


def _row(manifest: Manifest, answer: Answer) -> int:
    """The example that was answered; raises InputError where it is no longer there."""
    row, text = int(answer["example"]), str(answer["text"])
    if not 0 <= row < len(manifest.examples) or manifest.example(row, "text") != answer["text"]:
        raise InputError(f"{manifest.folder}: example {row} is no longer {text!r}; the set was built anew since")
    return row


def _card(manifest: Manifest, answer: Answer) -> Card:
    row, text = _row(manifest, answer), str(answer["text"])
    sample = manifest.example(row, "sample")
    width, height = (int(manifest.sample(sample, side)) for side in ("width", "height"))
    data, right = manifest.read_image(sample), _is_right(answer)
    if "mask" in answer:
        masks = [decode(answer[key], height, width) for key in ("mask", "truth")]
        shares = [f"{100 * mask.mean():.0f} % of it" if mask.any() else "nothing" for mask in masks]
        alt = f"An image of {width} by {height} pixels; predicted mask: {shares[0]}, true mask: {shares[1]}"
        return Card(_embedded(_drawn(data, *masks)), alt, width, height, text, right, iou=float(answer["iou"]))
    image = _embedded(data)
    if "iou" not in answer:
        predicted, truth = (
            str(answer["answer"]),
            str(answer["truth"] if answer["truth"] is not None else "not published"),
        )
        alt = f"The image of the question: {text}"
        return Card(image, alt, width, height, text, right, answer=predicted, truth=truth)
    box, truth_box = (_clipped(answer[key], width, height) for key in ("box", "truth"))
    alt = f"An image of {width} by {height} pixels; predicted box at {_spoken(box)}, true box at {_spoken(truth_box)}"
    return Card(image, alt, width, height, text, right, box, truth_box, float(answer["iou"]))


def _drawn(data: bytes, predicted: Mask, true: Mask) -> bytes:
    """The image as a PNG with the predicted mask tinted and the true one outlined."""
    stream = io.BytesIO()
    with _decoding(), opened(data) as image:
        drawn = overlay(image.convert("RGB"), predicted, PREDICTED)
    overlay(drawn, true, TRUE, filled=False).save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except (UnidentifiedImageError, ImageLimitError, SyntaxError) as error:
        raise InputError(f"an image of the set cannot be decoded ({error}); verify the set") from error


def _embedded(data: bytes) -> str:
    with _decoding():
        return data_uri(data, _KEPT_SIDE, _LARGEST_SIDE)


def _clipped(box: Sequence[float], width: int, height: int) -> Box:
    x, y, w, h = (float(side) for side in box)
    left, top = min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))
    return left, top, max(min(x + w, width) - left, 0.0), max(min(y + h, height) - top, 0.0)


def _spoken(box: Box) -> str:
    x, y, w, h = box
    return f"x {x:.0f}, y {y:.0f}, {w:.0f} wide, {h:.0f} high"
