"""The mirror: what it exchanges, that it undoes itself, and when it strikes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from laconvnet.pipeline.data.examples import Examples, Items, Rows
from laconvnet.pipeline.data.flip import flip_boxes, flip_images, flip_words
from laconvnet.pipeline.data.loader import Batch, DataConfig, Loader, Request
from laconvnet.pipeline.data.text import Vocabulary, words
from laconvnet.pipeline.errors import ConfigError

CPU = torch.device("cpu")
SIZE = 96
PAIRS = [
    ("left", "right"),
    ("Left man", "Right man"),
    ("THE LEFT ONE", "THE RIGHT ONE"),
    ("man on left, not right", "man on right, not left"),
    ("left-most chair", "right-most chair"),
    ("leftmost", "rightmost"),
    ("Leftmost", "Rightmost"),
    ("lefthand side", "righthand side"),
    ("left-handed lefty", "right-handed righty"),
    ("the lefter of the two", "the righter of the two"),
    ("topleft/bottomright", "topright/bottomleft"),
    ("TopLeft", "TopRight"),
    ("left's arm, lefts arm", "right's arm, rights arm"),
    ("(left)", "(right)"),
    ("left2 left_side", "right2 right_side"),
    ("farleft leftside leftward", "farright rightside rightward"),
    ("left\tright\nleft", "right\tleft\nright"),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_words_are_exchanged_both_ways(one: str, other: str) -> None:
    assert flip_words(one) == other
    assert flip_words(other) == one


OTHERS = (
    "bright frightened wright upright outright downright alright copyright righteous rightful rightly cleft leftover "
    "leftovers leftist aleft lefèvre éleft leftß middle r\N{LATIN SMALL LETTER DOTLESS I}ght"
)


@pytest.mark.parametrize("text", ["", OTHERS, *OTHERS.split()])
def test_other_words_are_left_alone(text: str) -> None:
    assert flip_words(text) == text


TEXTS = st.lists(
    st.one_of(
        st.sampled_from([text for pair in PAIRS for text in pair] + ["bright", "upright", "-", "/", "."]), st.text()
    )
).map(" ".join)


@given(TEXTS)
def test_words_exchanged_twice_are_themselves(text: str) -> None:
    again = flip_words(flip_words(text))
    assert again.lower() == text.lower()
    # Only a word in a case that nobody writes (rIGht) may come back in another one.
    assert again == text or any(text[at : at + 4].lower() in ("left", "righ") for at in range(len(text)))


@given(TEXTS)
def test_no_word_stays_on_its_side(text: str) -> None:
    sides = {"left": "right", "right": "left"}
    assert [sides.get(word, "") for word in words(text) if word in sides] == [
        word for word in words(flip_words(text)) if word in sides
    ]


@given(st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE), st.booleans()), min_size=1, max_size=5))
def test_images_boxes_and_masks_mirrored_twice_are_themselves(drawn: list[tuple[int, int, bool]]) -> None:
    which = torch.tensor([flag for _, _, flag in drawn])
    torch.manual_seed(0)
    images, masks = torch.rand(len(drawn), 3, 6, 6), torch.randint(0, 2, (len(drawn), 6, 6), dtype=torch.uint8)
    boxes = torch.tensor([[float(min(a, b)), 1.0, float(max(a, b)), 2.0] for a, b, _ in drawn])
    for values in (images, masks):
        once = flip_images(values, which)
        assert once.dtype == values.dtype
        assert torch.equal(flip_images(once, which), values)
        assert torch.equal(once[which], values[which].flip(-1)), "left to right, not upside down"
        assert torch.equal(once[~which], values[~which])
    once = flip_boxes(boxes, SIZE, which)
    assert (once[:, 0] <= once[:, 2]).all()
    assert torch.equal(once[:, 1::2], boxes[:, 1::2]), "no box moves up or down"
    assert torch.equal(flip_boxes(once, SIZE, which), boxes)
    assert torch.equal(once[~which], boxes[~which])


def test_a_box_goes_with_its_pixels() -> None:
    images = torch.zeros(1, 3, 8, 8)
    images[..., 2:5, 1:3] = 1
    which = torch.tensor([True])
    x1, y1, x2, y2 = flip_boxes(torch.tensor([[1.0, 2.0, 3.0, 5.0]]), 8, which)[0].int().tolist()
    mirrored = flip_images(images, which)
    assert mirrored[..., y1:y2, x1:x2].min() == 1
    assert mirrored.sum() == images.sum() == mirrored[..., y1:y2, x1:x2].sum()


# --- in the batch -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grouped(groups: Path) -> Examples:
    return Examples.open(groups, "expression", "train")


@pytest.fixture
def loader(grouped: Examples) -> Iterator[Loader]:
    vocabulary = Vocabulary.build(grouped.texts(grouped.rows))
    config = DataConfig("unused", size=SIZE, words=4, threads=1)
    with closing(Loader(grouped, vocabulary, config, 32, CPU, masks=True)) as made:
        yield made


def assert_equal(one: Batch, other: Batch) -> None:
    for name in ("images", "tokens", "boxes", "masks", "answers"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), equal_nan=True, msg=name)


def rows_of(examples: Examples, text: str) -> Rows:
    found: Rows = examples.rows[np.array(examples.texts(examples.rows)) == text]
    return found


def test_the_mirrored_left_box_is_the_right_box(grouped: Examples, loader: Loader) -> None:
    """Every image is its own mirror image, so a referent on one side becomes the one on the other side."""
    left, right = rows_of(grouped, "left box"), rows_of(grouped, "right box")
    assert len(left) == len(right) == 4
    flipped, plain = loader.batch(Request(left, None, np.ones(4, bool))), loader.batch(Request(right))
    assert_equal(flipped, plain)
    for name in ("tokens", "boxes", "masks"):
        assert not torch.equal(getattr(flipped, name), getattr(loader.batch(Request(left)), name)), "it fires"
    assert flipped.rows.tolist() == left.tolist()
    assert_equal(loader.batch(Request(left, None, np.zeros(4, bool))), loader.batch(Request(left)))


def test_only_those_requested_are_mirrored(grouped: Examples, loader: Loader) -> None:
    rows = grouped.rows[:10]
    which = np.arange(10) % 3 == 0
    mixed, plain = loader.batch(Request(rows, None, which)), loader.batch(Request(rows))
    all_of_them = loader.batch(Request(rows, None, np.ones(10, bool)))
    for name in ("images", "tokens", "boxes", "masks"):
        found, before, after = (getattr(batch, name) for batch in (mixed, plain, all_of_them))
        torch.testing.assert_close(found[~which], before[~which], equal_nan=True)
        torch.testing.assert_close(found[which], after[which], equal_nan=True)
    assert which.tolist() == (np.arange(10) % 3 == 0).tolist(), "the request is not written to"


def test_a_lopsided_image_is_mirrored_left_to_right(sets: dict[str, Path]) -> None:
    examples = Examples.open(sets["refcoco"], "expression", "train")
    config = DataConfig("unused", size=64, words=8, threads=1)
    with closing(Loader(examples, Vocabulary.build(examples.texts(examples.rows)), config, 8, CPU, masks=True)) as made:
        rows = examples.rows[:8]
        plain, flipped = made.batch(Request(rows)), made.batch(Request(rows, None, np.ones(8, bool)))
    assert torch.equal(flipped.images, plain.images.flip(3))
    assert not torch.equal(flipped.images, plain.images.flip(2))
    assert plain.masks is not None
    assert flipped.masks is not None
    assert torch.equal(flipped.masks, plain.masks.flip(2))
    x1, y1, x2, y2 = plain.boxes.unbind(1)
    torch.testing.assert_close(flipped.boxes, torch.stack([64 - x2, y1, 64 - x1, y2], 1))


def test_the_words_of_another_are_mirrored_as_well(grouped: Examples, loader: Loader) -> None:
    left, right, both = (rows_of(grouped, text) for text in ("left box", "right box", "both boxes"))
    flipped = loader.batch(Request(both, left, np.ones(4, bool)))
    assert torch.equal(flipped.tokens, loader.batch(Request(right)).tokens)


class FakeExamples:
    """As much of the examples as the words of a batch need."""

    def __init__(self, answers: list[str | None], texts: list[str]) -> None:
        self._answers, self._texts = answers, texts

    def texts(self, rows: NDArray[np.int64]) -> list[str]:
        return [self._texts[row] for row in rows]

    def answers(self, rows: NDArray[np.int64]) -> list[str | None]:
        return [self._answers[row] for row in rows]


def test_an_answer_goes_with_its_question(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = ["what side?", "left of it?", "q", "left?", "how many left?"]
    examples = FakeExamples(["left", "yes", "on the right", None, "2"], sentences)
    loader = Loader.__new__(Loader)
    loader._vocabulary = Vocabulary((), ("left", "right", "yes", "2", "on the right"))
    monkeypatch.setattr(loader, "_examples", examples, raising=False)
    rows = np.arange(5)
    texts, numbers, mirrored = loader._texts_and_targets(rows, rows, np.ones(5, bool))
    assert texts == ["what side?", "right of it?", "q", "right?", "how many right?"]
    assert numbers.tolist() == [1, 2, 4, -1, 3]
    # "on the left" is no answer of this vocabulary: nothing could be taught by the mirrored question.
    assert mirrored.tolist() == [True, True, False, True, True]
    texts, numbers, mirrored = loader._texts_and_targets(rows, rows, None)
    assert texts[1] == "left of it?"
    assert numbers.tolist() == [0, 2, 4, -1, 3]
    assert not mirrored.any()


# --- when it strikes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def items(sets: dict[str, Path]) -> Items:
    return Items.of(Examples.open(sets["refcoco"], "expression", "train"), 3)


def test_the_draw_is_the_same_on_every_world_and_after_resuming(items: Items, sets: dict[str, Path]) -> None:
    whole = [items.flips(step, 24, 0, 1, 0.5).tolist() for step in range(12)]
    again = Items.of(Examples.open(sets["refcoco"], "expression", "train"), 3)
    for world in (2, 3, 4):
        for step in (11, 5, 0):
            parts = [again.flips(step, 24, rank, world, 0.5).tolist() for rank in range(world)]
            assert [flag for part in parts for flag in part] == whole[step]
    other = Items.of(items.examples, 4)
    assert [other.flips(step, 24, 0, 1, 0.5).tolist() for step in range(12)] != whole


def test_it_strikes_with_the_given_share_and_anew_at_every_epoch_pass(items: Items) -> None:
    length = items.plan.epoch_length
    shares = {share: np.mean([items.flips(at, length, 0, 1, share) for at in range(40)]) for share in (0, 0.25, 0.5, 1)}
    assert shares[0] == 0
    assert shares[1] == 1
    assert shares[0.25] == pytest.approx(0.25, abs=0.02)
    assert shares[0.5] == pytest.approx(0.5, abs=0.02)
    struck: dict[int, list[bool]] = {}
    for epoch in range(12):
        numbers, _ = items.plan.step(epoch, length, 0, 1)
        for number, flag in zip(numbers.tolist(), items.flips(epoch, length, 0, 1, 0.5).tolist(), strict=True):
            struck.setdefault(number, []).append(flag)
    assert np.mean([0 < sum(flags) < 12 for flags in struck.values()]) > 0.95, "a referent is seen both ways"
    # The lot does not go with the sentence that the same visit draws.
    firsts = [items.step(epoch, length, 0, 1) for epoch in range(12)]
    taken = np.concatenate([np.isin(rows, items.first) for rows in firsts])
    flags = np.concatenate([items.flips(epoch, length, 0, 1, 0.5) for epoch in range(12)])
    assert abs(np.corrcoef(taken, flags)[0, 1]) < 0.1


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_named(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.flip: {share}: expected a share from 0 to 1"):
        replace(DataConfig("folder"), flip=share)
