"""Jitter and colour: what a batch then shows, what of a referent stays, and when it strikes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from laconvnet.pipeline.data.decode import Decoder
from laconvnet.pipeline.data.examples import Augmentation, Examples, Items
from laconvnet.pipeline.data.geometry import Letterbox
from laconvnet.pipeline.data.loader import DataConfig, Loader, Request, requests_of
from laconvnet.pipeline.data.text import Vocabulary
from laconvnet.pipeline.errors import ConfigError

CPU = torch.device("cpu")
SIZE = 96
SIDE = st.integers(1, 400)
UNIT = st.floats(0, 1, width=32)
SCALE = st.floats(0.6, 1.4)


def floats(*values: object) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def fit(width: int, height: int) -> Letterbox:
    return Letterbox.fit(np.array([width]), np.array([height]), SIZE)


def visible(box: NDArray[np.float32]) -> float:
    """The share of a box (xyxy) that lies on the square."""
    sides = box[2:] - box[:2]
    seen = np.clip(box[2:], 0, SIZE) - np.clip(box[:2], 0, SIZE)
    return float(np.prod(seen / sides))


@settings(max_examples=200, deadline=None)
@given(sides=st.tuples(SIDE, SIDE), scale=SCALE, at=st.tuples(UNIT, UNIT), corners=st.tuples(UNIT, UNIT, UNIT, UNIT))
def test_the_referent_stays_to_be_seen(
    sides: tuple[int, int], scale: float, at: tuple[float, float], corners: tuple[float, float, float, float]
) -> None:
    plain = fit(*sides)
    (x1, x2), (y1, y2) = (
        np.sort(np.array(pair)) * side for pair, side in zip((corners[:2], corners[2:]), sides, strict=True)
    )
    stored = floats([x1, y1, max(x2 - x1, sides[0] / 10), max(y2 - y1, sides[1] / 10)])
    stored[:, :2] = np.minimum(stored[:, :2], floats(sides) - stored[:, 2:])
    moved = plain.moved(floats(scale), floats(at), plain.boxes(stored))
    (box,) = moved.boxes(stored)
    long = box[2:] - box[:2]
    seen = np.clip(box[2:], 0, SIZE) - np.clip(box[:2], 0, SIZE)
    assert (seen >= np.minimum(long, SIZE) - 1.01).all(), "all that there is room for, to the pixel"
    middle = (box[:2] + box[2:]) / 2
    assert (middle > 0).all()
    assert (middle < SIZE).all()
    if long.min() > 12:
        assert visible(box) > 0.4
    # The whole image scaled, never turned or squeezed beyond the pixel grid, and somewhere on the square.
    for new, old in ((moved.new_width, plain.new_width), (moved.new_height, plain.new_height)):
        assert abs(int(new[0]) - max(1, scale * int(old[0]))) <= 0.51
    for first, new in ((moved.left, moved.new_width), (moved.top, moved.new_height)):
        begin, end = int(first[0]), int(first[0] + new[0])
        # Where it fits it is not cut, where it does not it leaves no padding.
        assert (begin >= 0 and end <= SIZE) if new[0] <= SIZE else (begin <= 0 and end >= SIZE)
    rows, columns = moved.inside(0)
    assert 0 <= rows.start < rows.stop <= SIZE
    assert 0 <= columns.start < columns.stop <= SIZE


def test_half_of_the_largest_referent_is_the_least_that_is_seen() -> None:
    plain = fit(500, 500)
    whole = floats([0, 0, 500, 500])
    for at in ((0, 0), (0.5, 1), (1, 1)):
        (box,) = plain.moved(floats(1.4), floats(at), plain.boxes(whole)).boxes(whole)
        assert visible(box) == pytest.approx(1 / 1.4**2, abs=0.02)
        assert visible(box) > 0.5


def test_every_position_that_shows_the_referent_is_taken() -> None:
    plain = fit(96, 96)
    stored = floats([24, 24, 24, 48])  # scaled by 1.25: 30 to 60 across, 30 to 90 down
    ends = [plain.moved(floats(1.25), floats([to, to]), plain.boxes(stored)).boxes(stored)[0] for to in (0, 1)]
    # Of the 24 pixels that 120 are over 96, all may go: the referent is inside the cut at either end of it.
    np.testing.assert_allclose(ends[0], [6, 6, 36, 66], atol=1e-5)
    np.testing.assert_allclose(ends[1], [30, 30, 60, 90], atol=1e-5)
    at_the_edge = floats([0, 72, 24, 24])
    for to in (0, 0.3, 1):
        (box,) = plain.moved(floats(1.25), floats([to, to]), plain.boxes(at_the_edge)).boxes(at_the_edge)
        np.testing.assert_allclose(box, [0, 66, 30, 96], atol=1e-5)
    smaller = [plain.moved(floats(0.75), floats([to, to]), plain.boxes(stored)) for to in (0, 1)]
    assert [(int(one.left[0]), int(one.top[0]), int(one.new_width[0])) for one in smaller] == [(0, 0, 72), (24, 24, 72)]


def test_positions_are_spread_over_those_that_do_not_cut_the_image() -> None:
    """96 x 64, scaled by 1.4, is 90 rows high: it stands 0 to 6 rows below the top."""
    tops = [
        int(fit(96, 64).moved(floats(1.4), floats([0, to]), floats([np.nan] * 4)).top[0]) for to in (0, 0.2, 0.8, 1)
    ]
    assert tops == [0, 1, 5, 6]


def test_scale_one_moves_nothing_and_nan_asks_for_nothing() -> None:
    plain = fit(200, 120)
    for box in (floats([1, 2, 30, 40]), floats([np.nan] * 4)):
        moved = plain.moved(floats(1), floats([0.3, 0.9]), plain.boxes(box))
        for name in ("new_width", "new_height", "left", "top"):
            assert getattr(moved, name).tolist() == getattr(plain, name).tolist()
    nothing = [plain.moved(floats(1.25), floats([to, to]), floats([np.nan] * 4)) for to in (0, 1)]
    assert [int(one.left[0]) for one in nothing] == [-24, 0]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(1, 1, CPU)


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(st.integers(30, 300), st.integers(30, 300)),
    scale=SCALE,
    at=st.tuples(UNIT, UNIT),
    seed=st.integers(0, 999),
)
def test_image_box_and_mask_agree(
    decoder: Decoder, sides: tuple[int, int], scale: float, at: tuple[float, float], seed: int
) -> None:
    """A white rectangle on black, seen through the decoder, stands where its box and its mask were put."""
    width, height = sides
    draw = np.random.default_rng(seed)
    w, h = (int(draw.integers(side // 3, side)) for side in sides)
    x, y = int(draw.integers(0, width - w + 1)), int(draw.integers(0, height - h + 1))
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + h, x : x + w] = 1
    encoded = io.BytesIO()
    Image.fromarray(mask * 255).save(encoded, "PNG")
    plain, stored = fit(width, height), floats([x, y, w, h])
    moved = plain.moved(floats(scale), floats(at), plain.boxes(stored))
    image = decoder.decode([np.frombuffer(encoded.getvalue(), np.uint8)], moved)[0].numpy()
    bright = image[0] > 0.6
    left, top, right, bottom = np.clip(moved.boxes(stored)[0], 0, SIZE)
    rows, columns = np.nonzero(bright)
    np.testing.assert_allclose(
        (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), (left, top, right, bottom), atol=1.01
    )
    placed = moved.mask(0, mask) > 0
    assert (placed ^ bright).sum() <= 2 * (right - left + bottom - top)
    padding = np.ones((SIZE, SIZE), bool)
    padding[moved.inside(0)] = False
    np.testing.assert_allclose(image[:, padding], 127 / 255, atol=1e-6)
    assert not placed[padding].any()


# --- colour -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factors", [(1.3, 1, 1), (0.7, 1, 1), (1, 1.4, 1), (1, 1, 0), (1, 1, 1.5), (0.8, 0.7, 1.2)])
def test_the_factors_do_what_they_say(factors: tuple[float, float, float]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, SIZE, 3)).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    data = [np.frombuffer(encoded.getvalue(), np.uint8)]
    image = Decoder(1, 1, CPU, coloured=True).decode(data, fit(SIZE, 48), floats(factors))[0]
    brightness, contrast, saturation = factors
    grey = (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]
    expected = brightness * (128 + contrast * (grey + saturation * (pixels - grey) - 128))
    found = image[:, 24:72].permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(found, np.clip(expected, 0, 255), atol=1.3)
    np.testing.assert_allclose(image[:, :24].numpy(), 127 / 255, atol=1e-6, err_msg="the padding keeps its grey")


# --- in the batch -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grouped(groups: Path) -> Examples:
    return Examples.open(groups, "expression", "train")


CONFIG = DataConfig("unused", size=SIZE, words=4, threads=1, batch=12, jitter=0.3, colour=0.4)


def loader_of(examples: Examples, config: DataConfig = CONFIG, masks: bool = True) -> Loader:
    return Loader(examples, Vocabulary.build(examples.texts(examples.rows)), config, 12, CPU, masks)


@pytest.fixture
def loader(grouped: Examples) -> Iterator[Loader]:
    with closing(loader_of(grouped)) as made:
        yield made


def augmentation_of(count: int, scale: float, at: tuple[float, float], colour: float = 1) -> Augmentation:
    return Augmentation(
        np.full(count, scale, np.float32), floats(*[at] * count), np.full((count, 3), colour, np.float32)
    )


def test_boxes_masks_and_images_go_together(grouped: Examples, loader: Loader) -> None:
    """The boxes are white on black: of the images that are shown, the masks' pixels are the bright ones."""
    rows = grouped.rows[np.array([text != "a unicorn" for text in grouped.texts(grouped.rows)])][:12]
    for scale, at in ((1.3, (0.0, 1.0)), (0.7, (1.0, 0.2))):
        batch = loader.batch(Request(rows, None, np.arange(12) % 2 == 0, augmentation_of(12, scale, at)))
        plain = loader.batch(Request(rows))
        assert batch.masks is not None
        assert not torch.equal(batch.boxes, plain.boxes)
        bright = batch.images[:, 0] > 0.7
        for mask, seen, (x1, y1, x2, y2) in zip(batch.masks.bool(), bright, batch.boxes.tolist(), strict=True):
            assert (mask & ~seen).sum() <= mask.sum() * 0.25, "of the mask's pixels the outline may be dim"
            rows_, columns = torch.nonzero(mask, as_tuple=True)
            edges = (columns.min(), rows_.min(), columns.max() + 1, rows_.max() + 1)
            np.testing.assert_allclose(edges, (x1, y1, x2, y2), atol=1.01)
        assert batch.boxes.min() >= 0
        assert batch.boxes.max() <= SIZE


def test_evaluation_is_not_touched(grouped: Examples, loader: Loader) -> None:
    """The same configuration with and without augmentation gives the same batch where no augmentation is requested."""
    rows = grouped.rows[:12]
    with closing(loader_of(grouped, DataConfig("unused", size=SIZE, words=4, threads=1))) as bare:
        one, two = loader.batch(Request(rows)), bare.batch(Request(rows))
    for name in ("images", "tokens", "boxes", "masks"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=0, atol=0, equal_nan=True)
    unmoved = loader.batch(Request(rows, None, None, augmentation_of(12, 1, (0.2, 0.7))))
    assert torch.equal(unmoved.images, two.images)
    coloured = loader.batch(Request(rows, None, None, augmentation_of(12, 1, (0.2, 0.7), 0.6)))
    assert not torch.equal(coloured.images, two.images)
    assert torch.equal(coloured.boxes.nan_to_num(-1), two.boxes.nan_to_num(-1))


def test_an_image_that_is_asked_about_is_never_cut(sets: dict[str, Path]) -> None:
    questions = Examples.open(sets["clevr"], "question", "train")
    with closing(loader_of(questions, masks=False)) as made:
        larger, smaller = (
            made.batch(Request(questions.rows[:12], None, None, augmentation_of(12, to, (0.5, 1.0))))
            for to in (1.3, 0.7)
        )
    assert torch.equal(larger.images, smaller.images), "a factor above one is taken as much below it"
    box = larger.letterbox
    assert (box.left >= 0).all()
    assert (box.top >= 0).all()
    assert (box.left + box.new_width <= SIZE).all()
    assert (box.top + box.new_height <= SIZE).all()
    assert box.new_width.tolist() == [round(0.7 * SIZE)] * 12


def test_where_nothing_is_spoken_of_the_image_moves_as_well(grouped: Examples, loader: Loader) -> None:
    rows = grouped.rows[np.array([text == "a unicorn" for text in grouped.texts(grouped.rows)])]
    batch = loader.batch(Request(rows, None, None, augmentation_of(len(rows), 1.3, (0.0, 0.0))))
    assert batch.boxes.isnan().all()
    assert (np.maximum(batch.letterbox.new_width, batch.letterbox.new_height) == round(1.3 * SIZE)).all()


# --- when it strikes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def items(sets: dict[str, Path]) -> Items:
    return Items.of(Examples.open(sets["refcoco"], "expression", "train"), 3)


def flat(augmentation: Augmentation | None) -> list[list[float]]:
    assert augmentation is not None
    rows: list[list[float]] = np.concatenate(
        [augmentation.scale[:, None], augmentation.at, augmentation.colour], 1
    ).tolist()
    return rows


def test_the_draw_is_the_same_on_every_world_and_after_resuming(items: Items, sets: dict[str, Path]) -> None:
    whole = [flat(items.augmentation(step, 24, 0, 1, 0.3, 0.4)) for step in range(12)]
    again = Items.of(Examples.open(sets["refcoco"], "expression", "train"), 3)
    for world in (2, 3, 4):
        for step in (11, 5, 0):
            parts = [flat(again.augmentation(step, 24, rank, world, 0.3, 0.4)) for rank in range(world)]
            assert [one for part in parts for one in part] == whole[step]
    other = Items.of(items.examples, 4)
    assert flat(other.augmentation(0, 24, 0, 1, 0.3, 0.4)) != whole[0]
    assert items.augmentation(0, 24, 0, 1, 0, 0) is None


def test_factors_fill_their_range_and_are_drawn_anew_at_every_epoch_pass(items: Items) -> None:
    length = items.plan.epoch_length
    drawn = np.array([flat(items.augmentation(epoch, length, 0, 1, 0.3, 0.4)) for epoch in range(40)]).reshape(-1, 6)
    for column, (low, high) in zip(drawn.T, [(0.7, 1.3), (0, 1), (0, 1), *[(0.6, 1.4)] * 3], strict=True):
        assert low <= column.min() < low + 0.02
        assert high - 0.02 < column.max() <= high
        assert column.mean() == pytest.approx((low + high) / 2, abs=0.02)
    together = np.corrcoef(drawn.T) - np.eye(6)
    assert np.abs(together).max() < 0.08
    numbers = np.concatenate([items.plan.step(epoch, length, 0, 1)[0] for epoch in range(40)])
    assert len(np.unique(drawn[numbers == numbers[0], 0])) > 30
    alone = np.array(flat(items.augmentation(0, length, 0, 1, 0.3, 0)))
    np.testing.assert_array_equal(alone[:, :3], drawn[:length, :3].astype(np.float32), "colour does not shift the rest")
    np.testing.assert_array_equal(alone[:, 3:], 1)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_requests_of_a_step_are_its_micro_batches(items: Items, parts: int) -> None:
    config = replace(CONFIG, flip=0.5)
    requests = [list(requests_of(items, config, 5, rank, 2, parts)) for rank in (0, 1)]
    assert [len(one) for one in requests] == [parts, parts]
    whole = [request for rank in requests for request in rank]
    assert np.concatenate([request.rows for request in whole]).tolist() == items.step(5, 12, 0, 1).tolist()
    flips = np.concatenate([request.flipped for request in whole])
    assert flips.tolist() == items.flips(5, 12, 0, 1, 0.5).tolist()
    augmentation = [one for request in whole for one in flat(request.augmentation)]
    assert augmentation == flat(items.augmentation(5, 12, 0, 1, 0.3, 0.4))
    (plain,) = requests_of(items, replace(config, jitter=0, colour=0), 5, 0, 1, 1)
    assert plain.augmentation is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("jitter", -0.1), ("jitter", 0.41), ("jitter", float("nan")), ("colour", 1.1), ("colour", -1.0)],
)
def test_a_share_that_is_none_is_named(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.{key}: {value}: expected a share from 0 to"):
        DataConfig("folder", **{key: value})  # type: ignore[arg-type]
