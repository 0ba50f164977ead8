"""The letterbox: the image, its boxes and its masks stay together whatever the shape of the image."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from laconvnet.pipeline.data.decode import Decoder
from laconvnet.pipeline.data.geometry import Letterbox

SIZES = (32, 64, 416, 33)
SIDE = st.one_of(st.integers(1, 2000), st.sampled_from([1, 2, 999, 1000]))
SIDES = st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=6)
EXTREME = [(1, 1000), (1000, 1), (3, 1999), (1, 1), (416, 416), (417, 416), (640, 427)]


def fit(sides: list[tuple[int, int]], size: int) -> Letterbox:
    width, height = np.array(sides, np.int64).T
    return Letterbox.fit(width, height, size)


def some_boxes(sides: list[tuple[int, int]], seed: int) -> NDArray[np.float32]:
    """A box inside each image, xywh."""
    drawn = np.random.default_rng(seed).uniform(0, 1, (len(sides), 4))
    corners = np.sort(drawn.reshape(-1, 2, 2), axis=1) * np.array(sides)[:, None]
    return np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], 1).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(sides=SIDES, size=st.sampled_from(SIZES))
def test_the_image_fills_the_square_and_stands_in_its_middle(sides: list[tuple[int, int]], size: int) -> None:
    box = fit(sides, size)
    for number, (width, height) in enumerate(sides):
        new_width, new_height = int(box.new_width[number]), int(box.new_height[number])
        left, top = int(box.left[number]), int(box.top[number])
        assert max(new_width, new_height) == size
        scale = size / max(width, height)
        assert new_width == 1 or abs(new_width - width * scale) <= 0.5
        assert new_height == 1 or abs(new_height - height * scale) <= 0.5
        assert 0 <= size - new_width - 2 * left <= 1
        assert 0 <= size - new_height - 2 * top <= 1


@settings(max_examples=150, deadline=None)
@given(sides=SIDES, size=st.sampled_from(SIZES), seed=st.integers(0, 1000))
def test_boxes_come_back_where_they_were(sides: list[tuple[int, int]], size: int, seed: int) -> None:
    box, boxes = fit(sides, size), some_boxes(sides, seed)
    placed = box.boxes(boxes)
    assert placed.dtype == np.float32
    corner = np.stack([box.left, box.top], 1)
    assert (placed[:, :2] >= corner - 1e-3).all()
    assert (placed[:, 2:] <= corner + np.stack([box.new_width, box.new_height], 1) + 1e-3).all()
    assert (placed[:, 2:] >= placed[:, :2]).all()
    np.testing.assert_allclose(box.restore(placed), boxes, atol=2e-3)


@pytest.mark.parametrize("sides", EXTREME)
@pytest.mark.parametrize("size", SIZES)
def test_the_whole_image_is_the_whole_box(sides: tuple[int, int], size: int) -> None:
    box = fit([sides], size)
    whole = np.array([[0, 0, *sides]], np.float32)
    left, top = int(box.left[0]), int(box.top[0])
    expected = [left, top, left + int(box.new_width[0]), top + int(box.new_height[0])]
    np.testing.assert_allclose(box.boxes(whole)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(box.restore(box.boxes(whole)), whole, rtol=1e-6)


def test_a_known_letterbox() -> None:
    """640 x 480 in 416: scaled by 0.65 to 416 x 312, 52 rows of padding above and below."""
    box = fit([(640, 480)], 416)
    assert (box.new_width[0], box.new_height[0], box.left[0], box.top[0]) == (416, 312, 0, 52)
    np.testing.assert_allclose(box.boxes(np.array([[100, 40, 200, 80]], np.float32)), [[65, 78, 195, 130]], rtol=1e-6)
    tall = fit([(480, 640)], 416)
    assert (tall.new_width[0], tall.new_height[0], tall.left[0], tall.top[0]) == (312, 416, 52, 0)


def test_restored_boxes_are_cut_at_the_borders_of_the_image() -> None:
    box = fit([(100, 50)], 64)
    over = np.array([[-30.0, -30.0, 94.0, 94.0]], np.float32)
    np.testing.assert_allclose(box.restore(over), [[0, 0, 100, 50]])
    beside = np.array([[70.0, 70.0, 90.0, 90.0]], np.float32)
    np.testing.assert_allclose(box.restore(beside), [[100, 50, 0, 0]])


def test_boxes_of_a_batch_take_each_its_own_letterbox() -> None:
    sides = [(100, 50), (50, 100), (64, 64)]
    boxes = some_boxes(sides, 0)
    together = fit(sides, 64).boxes(boxes)
    alone = np.concatenate([fit([one], 64).boxes(boxes[number : number + 1]) for number, one in enumerate(sides)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("sides", EXTREME)
def test_masks_cover_the_image_and_keep_hard_labels(sides: tuple[int, int]) -> None:
    width, height = sides
    box = fit([sides], 64)
    labels = np.random.default_rng(0).choice(np.array([3, 200], np.uint8), (height, width))
    square = box.mask(0, labels)
    assert square.shape == (64, 64)
    assert square.dtype == np.uint8
    assert set(np.unique(square)) <= {0, 3, 200}
    rows, columns = np.nonzero(square)
    left, top = int(box.left[0]), int(box.top[0])
    assert (rows.min(), rows.max() + 1) == (top, top + int(box.new_height[0]))
    assert (columns.min(), columns.max() + 1) == (left, left + int(box.new_width[0]))
    assert (square > 0).sum() == box.new_width[0] * box.new_height[0]


def test_a_mask_that_fits_the_square_stays_as_it_is() -> None:
    mask = np.random.default_rng(1).integers(0, 2, (64, 64)).astype(np.uint8)
    np.testing.assert_array_equal(fit([(64, 64)], 64).mask(0, mask), mask)


def test_a_shrunk_mask_takes_the_pixel_in_the_middle() -> None:
    """Of every three pixels the second: the middle of what the decoder averages."""
    rows, columns = np.indices((192, 192)).astype(np.uint8)
    box = fit([(192, 192)], 64)
    np.testing.assert_array_equal(box.mask(0, rows)[:, 0], np.arange(64) * 3 + 1)
    np.testing.assert_array_equal(box.mask(0, columns)[0], np.arange(64) * 3 + 1)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(1, 1, torch.device("cpu"))


@settings(max_examples=40, deadline=None)
@given(sides=st.tuples(st.integers(20, 300), st.integers(20, 300)), seed=st.integers(0, 1000))
def test_image_box_and_mask_agree(decoder: Decoder, sides: tuple[int, int], seed: int) -> None:
    """A white rectangle on black, seen through the decoder, stands where its box and its mask were put."""
    width, height = sides
    draw = np.random.default_rng(seed)
    w, h = (int(draw.integers(side // 3, side)) for side in sides)
    x, y = int(draw.integers(0, width - w + 1)), int(draw.integers(0, height - h + 1))
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + h, x : x + w] = 1
    encoded = io.BytesIO()
    Image.fromarray(mask * 255).save(encoded, "PNG")

    box = fit([sides], 96)
    image = decoder.decode([np.frombuffer(encoded.getvalue(), np.uint8)], box)[0].numpy()
    bright = image[0] > 0.6  # the padding is 127 / 255
    left, top, right, bottom = box.boxes(np.array([[x, y, w, h]], np.float32))[0]
    rows, columns = np.nonzero(bright)
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(seen, (left, top, right, bottom), atol=1)

    placed = box.mask(0, mask) > 0
    # They part along the border, by a pixel; and at its corners, which a filter rounds by a pixel of the image.
    border, rounded = 2 * (right - left + bottom - top), max(1, 96 / max(sides)) ** 2
    assert (placed ^ bright).sum() <= border + 4 * rounded
    inside = np.zeros((96, 96), bool)
    inside[int(np.ceil(top)) + 1 : int(bottom) - 1, int(np.ceil(left)) + 1 : int(right) - 1] = True
    assert placed[inside].all()
    assert bright[inside].all()

    padding = np.ones((96, 96), bool)
    padding[box.top[0] : box.top[0] + box.new_height[0], box.left[0] : box.left[0] + box.new_width[0]] = False
    np.testing.assert_allclose(image[:, padding], 127 / 255, atol=1e-6)
    assert not placed[padding].any()
