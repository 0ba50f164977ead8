"""The image a user names: opened as training saw its like, refused in one line; and the drawing of the answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from laconvnet.pipeline.data.masks import encode
from laconvnet.pipeline.data.text import Words
from laconvnet.pipeline.errors import ConfigError
from laconvnet.pipeline.inference.answer import Answer
from laconvnet.pipeline.inference.pictures import upright
from tests.package.test_images import scans
from tests.samples import SAMPLES, needs

ODD = SAMPLES / "images"


def test_a_turned_image_is_shown_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:10, :20] = 255
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    image = upright(tmp_path / "turned.jpg")
    assert (image.mode, image.size) == ("RGB", (20, 40))
    shown = np.asarray(image)
    assert (shown[5, 15] > 200).all()
    assert (shown[5, 5] < 60).all()


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(tmp_path: Path, kind: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    options: dict[str, Any] = {"transparency": 0} if kind == "P" else {}
    if kind == "P":
        image = Image.new("P", (8, 8), 0)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.putpixel((0, 0), 1)
    image.convert(kind).save(tmp_path / "clear.png", **options)
    opened = upright(tmp_path / "clear.png")
    assert opened.getpixel((0, 0)) == (0, 0, 0)
    assert opened.getpixel((4, 4)) == (255, 255, 255)


def test_sixteen_bits_keep_their_upper_eight_as_in_shards(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 30_000, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    for image in (upright(tmp_path / "a.png"), upright(Image.fromarray(values))):
        assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 117, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_32_bits_are_refused_as_in_shards(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / "a.tiff")
    for image in (tmp_path / "a.tiff", Image.new(mode, (8, 8))):
        with pytest.raises(ConfigError, match=f"pixel mode {mode}"):
            upright(image)


def test_an_image_of_pil_that_breaks_off_is_refused(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1000])
    with Image.open(tmp_path / "half.png") as image, pytest.raises(ConfigError, match="not an image that can be"):
        upright(image)


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^image: 'a\\x00\.png': no name that a file can have"):
        upright("a\0.png")


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40), b"P6 1 1 255\n123"])
def test_what_is_no_image_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"^image: {path}: not an image that can be decoded"):
        upright(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: a device or a pipe; expected a file"):
        upright(tmp_path / "pipe")


def test_what_would_take_too_long_to_decode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.jpg").write_bytes(scans(3000))
    with pytest.raises(ConfigError, match=r"^image: .*bomb\.jpg: refused: .*more than \d+ scans"):
        upright(tmp_path / "bomb.jpg")


def test_a_missing_image_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^image: .*none\.png: no such file$"):
        upright(tmp_path / "none.png")
    with pytest.raises(ConfigError, match=r"^image: .*not an image"):
        upright(tmp_path)


@needs(ODD)
@pytest.mark.parametrize("name", ["truncated_jpeg.jpg", "truncated_image.png", "broken.png"])
def test_real_broken_images_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: not an image that can be decoded"):
        upright(ODD / name)


def draw(image: Image.Image, text: str, found: dict[str, Any]) -> Image.Image:
    return Answer.of(image, text, found, Words((), (), ())).draw()


def test_the_drawing_frames_the_box_and_keeps_the_image() -> None:
    image = Image.new("RGB", (400, 200), (10, 20, 30))
    sheet = draw(image, "the red one", {"box": [100, 50, 200, 100], "score": 0.5})
    assert sheet.size == (400, 234)
    for edge in ((100, 100), (300, 100), (200, 50), (200, 150)):
        assert sheet.getpixel(edge) == (255, 64, 0)
    assert sheet.getpixel((200, 100)) == (10, 20, 30)
    assert sheet.getpixel((50, 25)) == (10, 20, 30)
    below = np.asarray(sheet)[200:]
    assert below.min() < 100, "the sentence is written there"


def test_a_small_image_is_enlarged_with_its_box() -> None:
    sheet = draw(Image.new("RGB", (64, 64), (10, 20, 30)), "q", {"box": [10, 10, 20, 20], "score": 0.5})
    assert sheet.size == (320, 354)
    assert sheet.getpixel((50, 100)) == (255, 64, 0)
    assert sheet.getpixel((100, 100)) == (10, 20, 30)


def test_a_narrow_image_is_not_enlarged_without_end() -> None:
    sheet = draw(Image.new("RGB", (1, 5000), (10, 20, 30)), "q", {"box": [0, 10, 1, 20], "score": 0.5})
    assert sheet.size == (320, 5034)
    assert (np.asarray(sheet)[5000:] < 128).any(), "the sentence is written below"


def test_the_drawing_tints_and_outlines_the_mask() -> None:
    image = Image.new("RGB", (400, 200), (10, 20, 30))
    mask = np.zeros((200, 400), np.uint8)
    mask[50:150, 100:300] = 1
    sheet = draw(image, "the red one", {"mask": encode(mask), "score": 0.5})
    assert sheet.size == (400, 234)
    for edge in ((100, 100), (299, 100), (200, 50), (200, 149)):
        assert sheet.getpixel(edge) == (255, 64, 0)
    tinted = sheet.getpixel((200, 100))
    assert tinted == (108, 38, 18), "two fifths of the colour: the image stays visible"
    for outside in ((99, 100), (300, 100), (200, 49), (200, 150), (50, 25)):
        assert sheet.getpixel(outside) == (10, 20, 30)


def test_a_small_image_is_enlarged_with_its_mask() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 20:40] = 1
    sheet = draw(Image.new("RGB", (64, 64), (10, 20, 30)), "q", {"mask": encode(mask), "score": 0.5})
    assert sheet.size == (320, 354)
    marked = (np.asarray(sheet)[:320] != (10, 20, 30)).any(2)
    assert marked[50:150, 100:200].all()
    assert marked.sum() == 100 * 100


def test_an_empty_mask_is_reported_in_words() -> None:
    image = Image.new("RGB", (400, 100), (10, 20, 30))
    empty, full = (encode(np.full((100, 400), value)) for value in (0, 1))
    sheet = np.asarray(draw(image, "a unicorn", {"mask": empty, "score": 0.0}))
    assert (sheet[:100] == (10, 20, 30)).all()
    answered = np.asarray(draw(image, "a unicorn", {"mask": full, "score": 0.9}))
    assert (sheet[100:] < 128).any(2).sum() > (answered[100:] < 128).any(2).sum()


def test_an_answer_in_words_is_written_below() -> None:
    image = Image.new("RGB", (400, 100), (10, 20, 30))
    short, long = (
        np.asarray(draw(image, "how many", {"answer": answer, "score": 1.0}))[100:] for answer in ("2", "a great many")
    )
    assert (np.asarray(draw(image, "how many", {"answer": "2", "score": 1.0}))[:100] == (10, 20, 30)).all()
    assert (long < 128).any(2).sum() > (short < 128).any(2).sum()
