"""Encoded images to tensors: the stored pixels, upright as they are stored, each by itself."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from laconvnet.pipeline.data.decode import Decoder
from laconvnet.pipeline.data.geometry import PADDING, Letterbox
from laconvnet.shards.build.images import read_image_file
from tests.samples import SAMPLES, needs

ODD = SAMPLES / "images"
real = needs(ODD)
SIZE = 64
Bytes = NDArray[np.uint8]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(8, 2, torch.device("cpu"))


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG", **options: object) -> Bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return np.frombuffer(stream.getvalue(), np.uint8)


def fit(data: list[Bytes]) -> Letterbox:
    sides = [Image.open(io.BytesIO(one.tobytes())).size for one in data]
    width, height = np.array(sides, np.int64).T
    return Letterbox.fit(width, height, SIZE)


def quadrants(width: int = 40, height: int = 20) -> NDArray[np.uint8]:
    """Red, green / blue, white: every turn and flip shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return pixels


def by_pil(data: Bytes, box: Letterbox) -> NDArray[np.float32]:
    """The square as PIL makes it from the stored pixels, without any turning."""
    picture = Image.open(io.BytesIO(data.tobytes())).convert("RGB")
    new = (int(box.new_width[0]), int(box.new_height[0]))
    square = Image.new("RGB", (SIZE, SIZE), (PADDING,) * 3)
    square.paste(picture.resize(new, Image.Resampling.BILINEAR), (int(box.left[0]), int(box.top[0])))
    return np.asarray(square, np.float32).transpose(2, 0, 1) / np.float32(255)


def assert_alike(decoder: Decoder, data: Bytes, within: float = 2.5) -> None:
    box = fit([data])
    found, expected = decoder.decode([data], box)[0].numpy(), by_pil(data, box)
    assert np.abs(found - expected).mean() * 255 < within
    assert np.abs(found - expected.mean((1, 2), keepdims=True)).mean() > 0.02  # an image, not an even grey


def test_shape_kind_and_range(decoder: Decoder) -> None:
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[0, 0], pixels[0, 1], pixels[63, 63] = (255, 0, 127), (1, 2, 3), (0, 255, 0)
    images = decoder.decode([encoded(pixels)], fit([encoded(pixels)]))
    assert images.shape == (1, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    # At its own size a lossless image keeps every value, channels in the order red, green, blue.
    np.testing.assert_allclose(images[0].numpy(), pixels.transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 64), (64, 20), (1, 1000), (1000, 1), (3, 3)])
def test_padding_is_grey_and_nothing_else(decoder: Decoder, shape: tuple[int, int]) -> None:
    white = encoded(np.full((*shape, 3), 255, np.uint8))
    box = fit([white])
    image = decoder.decode([white], box)[0].numpy()
    top, left = int(box.top[0]), int(box.left[0])
    picture = np.zeros((SIZE, SIZE), bool)
    picture[top : top + int(box.new_height[0]), left : left + int(box.new_width[0])] = True
    np.testing.assert_allclose(image[:, picture], 1)
    np.testing.assert_allclose(image[:, ~picture], 127 / 255, atol=1e-6)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_gray_becomes_three_equal_channels(decoder: Decoder, kind: str) -> None:
    pixels = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (SIZE, 1))
    image = decoder.decode([encoded(pixels, kind)], fit([encoded(pixels, kind)]))[0].numpy()
    assert image.shape == (3, SIZE, SIZE)
    np.testing.assert_array_equal(image[0], image[1])
    np.testing.assert_array_equal(image[0], image[2])
    np.testing.assert_allclose(image[0] * 255, pixels, atol=3)


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_exif_turns_nothing(decoder: Decoder, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(quadrants(64, 32), "JPEG", exif=exif, quality=95)
    plain = encoded(quadrants(64, 32), "JPEG", quality=95)
    images = decoder.decode([turned, plain], fit([plain, plain]))
    np.testing.assert_array_equal(images[0].numpy(), images[1].numpy())
    assert_alike(decoder, turned)


def test_batches_of_any_size_up_to_the_largest_keep_their_order(decoder: Decoder) -> None:
    greys = [encoded(np.full((10, 10, 3), 10 * number, np.uint8)) for number in range(1, 9)]
    for count in (8, 1, 3, 8, 2):
        images = decoder.decode(greys[:count], fit(greys[:count]))
        assert len(images) == count
        np.testing.assert_allclose(images[:, 0, 32, 32].numpy() * 255, 10 * np.arange(1, count + 1), atol=1e-3)
    back = decoder.decode(greys[::-1], fit(greys))
    np.testing.assert_allclose(back[:, 0, 32, 32].numpy() * 255, 10 * np.arange(8, 0, -1), atol=1e-3)


def test_an_image_comes_out_the_same_in_any_company(decoder: Decoder) -> None:
    draw = np.random.default_rng(0)
    shapes = [(30, 40), (200, 17), (64, 64), (5, 90), (131, 77)]
    noise = [draw.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in shapes]
    data = [encoded(pixels, kind) for pixels in noise for kind in ("PNG", "JPEG")]
    alone = torch.cat([decoder.decode([one], fit([one])) for one in data])
    for order in ([0, 1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5], [3, 9, 1]):
        chosen = [data[number] for number in order]
        assert torch.equal(decoder.decode(chosen, fit(chosen)), alone[order])


def test_what_was_decoded_stays_when_the_next_batch_comes(decoder: Decoder) -> None:
    first = encoded(np.full((9, 9, 3), 200, np.uint8))
    kept = decoder.decode([first], fit([first]))
    copy = kept.clone()
    decoder.decode([encoded(np.zeros((9, 9, 3), np.uint8))], fit([first]))
    assert torch.equal(kept, copy)


def test_strong_downscaling_averages() -> None:
    """A fine checkerboard becomes even grey: resizing without antialiasing would leave a pattern."""
    board = np.indices((1024, 1024)).sum(0) % 2 * 255
    data = encoded(np.repeat(board[..., None], 3, 2).astype(np.uint8))
    image = Decoder(1, 1, torch.device("cpu")).decode([data], Letterbox.fit(np.array([1024]), np.array([1024]), 32))
    np.testing.assert_allclose(image.numpy(), 0.5, atol=0.02)


@real
@pytest.mark.parametrize(
    "name",
    [
        "hopper.jpg",
        "hopper_gray.jpg",
        "hopper.webp",
        "hopper_orientation_3.jpg",
        "hopper_orientation_6.jpg",
        "orientation_rectangle.jpg",
        "i_trns.png",
        "icc_profile_big.jpg",
        "junk_jpeg_header.jpg",
        "pil123rgba.png",
        "pil_sample_cmyk.jpg",
        "rgb_trns.png",
        "sugarshack.mpo",
    ],
)
@pytest.mark.parametrize("has_regions", [False, True])
def test_real_odd_images_as_the_builder_stores_them(decoder: Decoder, name: str, has_regions: bool) -> None:
    picture = read_image_file(ODD / name, has_regions=has_regions)
    data = np.frombuffer(picture.data, np.uint8)
    assert (int(fit([data]).width[0]), int(fit([data]).height[0])) == (picture.width, picture.height)
    assert_alike(decoder, data)
