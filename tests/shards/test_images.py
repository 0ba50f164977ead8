"""Images to shard bytes: what passes through, what is normalised and how, what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from laconvnet import images
from laconvnet.images import MAX_SCANS
from laconvnet.shards.build import jpeg
from laconvnet.shards.build.images import ImageError, StoredImage, read_image_file
from laconvnet.shards.format.pictures import Content
from tests.package.test_images import scans
from tests.samples import SAMPLES, needs

ODD = SAMPLES / "images"
real = needs(ODD)


def decoded(picture: StoredImage) -> Image.Image:
    image = Image.open(io.BytesIO(picture.data))
    image.load()
    assert image.size == (picture.width, picture.height)
    assert {"JPEG": "jpg", "PNG": "png"}[str(image.format)] == picture.ext
    assert image.mode in ("L", "RGB")
    assert dict(image.getexif()).get(0x0112, 1) == 1
    return image


def quadrants(width: int = 40, height: int = 20) -> Image.Image:
    """Red, green / blue, white: every turn and flip shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def with_orientation(folder: Path, value: int, size: tuple[int, int] = (40, 20), ext: str = "jpg") -> Path:
    exif = Image.Exif()
    exif[0x0112] = value
    path = folder / f"turned{value}.{ext}"
    quadrants(*size).save(path, exif=exif)
    return path


def corner(image: Image.Image) -> str:
    red, green, blue = np.asarray(image.convert("RGB"))[2, 2]
    return {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "white"}[
        (red > 128, green > 128, blue > 128)
    ]


@real
@pytest.mark.parametrize("name", ["hopper.jpg", "hopper_gray.jpg", "icc_profile_big.jpg"])
def test_ordinary_jpegs_pass_through(name: str) -> None:
    assert read_image_file(ODD / name).data == (ODD / name).read_bytes()


@real
@pytest.mark.parametrize(
    ("name", "ext", "size"),
    [
        ("pil_sample_cmyk.jpg", "jpg", (100, 100)),
        ("hopper.webp", "jpg", (128, 128)),
        ("sugarshack.mpo", "jpg", (640, 480)),
        ("i_trns.png", "png", (64, 64)),
        ("rgb_trns.png", "png", (64, 64)),
        ("pil123rgba.png", "png", (162, 150)),
        ("junk_jpeg_header.jpg", "jpg", (1024, 768)),
    ],
)
def test_odd_images_are_encoded_again(name: str, ext: str, size: tuple[int, int]) -> None:
    picture = read_image_file(ODD / name)
    assert (picture.ext, picture.width, picture.height) == (ext, *size)
    assert picture.data != (ODD / name).read_bytes()
    decoded(picture)
    assert read_image_file(ODD / name).data == picture.data
    assert picture.ext == "png" or jpeg.is_plain(picture.data)


@real
def test_normalised_pixels_are_those_of_the_original() -> None:
    with Image.open(ODD / "sugarshack.mpo") as original:
        expected = np.asarray(original.convert("RGB"), np.float32)
    found = np.asarray(decoded(read_image_file(ODD / "sugarshack.mpo")), np.float32)
    assert np.abs(found - expected).mean() < 2


@real
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken.png", "no image of a known format"),
        ("truncated_jpeg.jpg", "Premature end of JPEG file"),
        ("truncated_image.png", "image file is truncated"),
        ("broken_data_stream.png", "unrecognized data stream"),
        ("not_there.jpg", "cannot be read: No such file"),
    ],
)
def test_broken_images_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image_file(ODD / name)


@pytest.mark.parametrize(("value", "top_left"), [(5, "red"), (6, "blue"), (7, "white"), (8, "green")])
@pytest.mark.parametrize("has_regions", [False, True])
def test_the_annotated_size_decides_the_orientation(
    tmp_path: Path, value: int, top_left: str, has_regions: bool
) -> None:
    path = with_orientation(tmp_path, value)
    upright = read_image_file(path, (20, 40), has_regions)
    assert (upright.width, upright.height) == (20, 40)
    assert corner(decoded(upright)) == top_left
    stored = read_image_file(path, (40, 20), has_regions)
    assert (stored.width, stored.height) == (40, 20)
    assert corner(decoded(stored)) == "red"


@pytest.mark.parametrize(
    ("value", "size", "annotated", "top_left"),
    [(3, (40, 20), (40, 20), "white"), (6, (20, 20), (20, 20), "blue"), (6, (40, 20), (0, 0), "blue")],
)
def test_where_the_size_cannot_decide_regions_keep_stored_pixels(
    tmp_path: Path, value: int, size: tuple[int, int], annotated: tuple[int, int], top_left: str
) -> None:
    path = with_orientation(tmp_path, value, size)
    assert corner(decoded(read_image_file(path, annotated, has_regions=True))) == "red"
    assert corner(decoded(read_image_file(path, annotated, has_regions=False))) == top_left


def test_exif_is_taken_out_of_a_stored_jpeg_without_touching_a_pixel(tmp_path: Path) -> None:
    path = with_orientation(tmp_path, 6)
    picture = read_image_file(path, (40, 20))
    assert b"Exif\0\0" in path.read_bytes()
    assert b"Exif\0\0" not in picture.data
    with Image.open(path) as original:
        assert np.array_equal(np.asarray(original), np.asarray(decoded(picture)))


def test_orientation_of_a_png_is_removed_too(tmp_path: Path) -> None:
    path = with_orientation(tmp_path, 6, ext="png")
    assert corner(decoded(read_image_file(path, (40, 20)))) == "red"
    assert corner(decoded(read_image_file(path, (20, 40)))) == "blue"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (4, 0, 8, 8))
    image.convert(mode).save(tmp_path / "a.png")
    found = decoded(read_image_file(tmp_path / "a.png")).convert("RGB")
    assert found.getpixel((1, 1)) == (255, 255, 255)
    assert found.getpixel((6, 6)) != (255, 255, 255)


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 0x7FFF, 0xFFFF]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(decoded(read_image_file(tmp_path / "a.png"))).tolist() == [[0, 0, 1, 0x7F, 0xFF]]


def test_palette_gif_frames_and_bitmaps_become_png_of_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = read_image_file(tmp_path / "a.gif")
    assert picture.ext == "png"
    assert decoded(picture).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_plain_png_passes_through(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "a.png")
    assert read_image_file(tmp_path / "a.png").data == (tmp_path / "a.png").read_bytes()


def test_an_rgb_jpeg_is_encoded_again_as_ycbcr(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "a.jpg", keep_rgb=True, quality=100)
    assert not jpeg.is_plain((tmp_path / "a.jpg").read_bytes())
    picture = read_image_file(tmp_path / "a.jpg")
    assert jpeg.is_plain(picture.data)
    assert corner(decoded(picture)) == "red"


@pytest.mark.parametrize(("mode", "name"), [("CMYK", "a.jpg"), ("P", "a.png")])
def test_the_colour_profile_of_other_pixels_does_not_stay(tmp_path: Path, mode: str, name: str) -> None:
    quadrants().convert(mode).save(tmp_path / name, icc_profile=b"profile of other pixels")
    with Image.open(io.BytesIO(read_image_file(tmp_path / name).data)) as found:
        assert "icc_profile" not in found.info


def test_the_first_frame_of_an_animated_png_stays(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    picture = read_image_file(tmp_path / "a.png")
    assert getattr(decoded(picture), "n_frames", 1) == 1
    assert decoded(picture).getpixel((0, 0)) == (255, 0, 0)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 12_000, 12_000, 1, 0, 0, 0, 0)  # above PIL's warning, below its error
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"12000x12000 .* decompression bomb"):
        read_image_file(tmp_path / "bomb.png")


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(scans(MAX_SCANS))
    assert read_image_file(tmp_path / "a.jpg").width == 40
    (tmp_path / "bomb.jpg").write_bytes(scans(MAX_SCANS + 1))
    monkeypatch.setattr(jpeg, "fault", lambda data: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=f"more than {MAX_SCANS} scans"):
        read_image_file(tmp_path / "bomb.jpg")


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_png_whose_texts_unpack_to_megabytes_is_refused(tmp_path: Path, name: bytes) -> None:
    stream = io.BytesIO()
    Image.new("RGBA", (4, 4)).save(stream, "PNG")
    flags = b"\0\1\0\0\0" if name == b"iTXt" else b"\0\0"
    body = name + b"key" + flags + zlib.compress(bytes(2**24))
    bomb = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    header = 8 + 25  # signature and IHDR
    (tmp_path / "a.png").write_bytes(stream.getvalue()[:header] + bomb + stream.getvalue()[header:])
    with pytest.raises(ImageError, match="too large"):
        read_image_file(tmp_path / "a.png")


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    (tmp_path / "a.jpg").write_bytes(bytes(1001))
    with pytest.raises(ImageError, match="more than 1,000 bytes"):
        read_image_file(tmp_path / "a.jpg")


def test_a_jpeg_with_a_hole_is_refused_and_one_with_stray_bytes_mended(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(stream, "JPEG")
    data = stream.getvalue()
    half = len(data) // 2
    (tmp_path / "hole.jpg").write_bytes(data[:half] + data[half + 300 :])
    with pytest.raises(ImageError, match="premature end of data segment"):
        read_image_file(tmp_path / "hole.jpg")
    for at in (data.index(b"\xff\xdb"), len(data) - 2):
        (tmp_path / "stray.jpg").write_bytes(data[:at] + b"stray" * 12 + data[at:])
        mended = read_image_file(tmp_path / "stray.jpg")
        assert b"stray" not in mended.data
        assert jpeg.fault(mended.data) is None
        assert np.abs(np.asarray(decoded(mended), np.float32) - np.asarray(Image.open(stream), np.float32)).mean() < 2


@pytest.mark.parametrize("cut", [0, 1, 3, 20, 200, 400])
def test_jpeg_headers_of_any_length_are_read_without_a_crash(cut: int) -> None:
    stream = io.BytesIO()
    quadrants().save(stream, "JPEG")
    assert jpeg.is_plain(stream.getvalue())
    assert not jpeg.is_plain(stream.getvalue()[:cut])
    assert not jpeg.is_plain(stream.getvalue()[:-2])


def looked_at(path: Path, data: bytes) -> StoredImage | tuple[str, Content]:
    path.write_bytes(data)
    try:
        return read_image_file(path)
    except ImageError as error:
        return str(error), error.content


def test_ordinary_jpegs_are_stored_without_being_opened_by_pil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(4)]
    saved: list[dict[str, Any]] = [{}, {"comment": b"hello"}, {"optimize": True}, {"subsampling": 2}]
    for file, options in zip(files, saved, strict=True):
        quadrants().save(file, **options)
    monkeypatch.setattr("laconvnet.shards.build.images.opened", lambda _: pytest.fail("opened"))
    for file in files:
        found = read_image_file(file)
        assert (found.data, found.ext, found.width, found.height) == (file.read_bytes(), "jpg", 40, 20)


@pytest.mark.parametrize("options", [{"progressive": True}, {"icc_profile": b"of a camera"}, {"exif": b"Exif\0\0"}])
def test_other_jpegs_are_opened_by_pil(options: dict[str, Any]) -> None:
    stream = io.BytesIO()
    quadrants().save(stream, "JPEG", **options)
    assert jpeg.is_plain(stream.getvalue())
    assert jpeg.ordinary_size(stream.getvalue()) is None


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_whatever_is_broken_an_ordinary_jpeg_is_what_pil_finds_it_to_be(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte of its head is another, or gone, in turn."""
    stream = io.BytesIO()
    quadrants(24, 20).convert(mode).save(stream, "JPEG", comment=b"hello")
    data = stream.getvalue()
    scan = data.index(b"\xff\xda") + 10
    broken = [data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :] for at in range(2, scan) for bit in (1, 8, 128)]
    broken += [data[:at] + data[at + 1 :] for at in range(2, scan)]
    short = {b"\xe0\x00\x06JFIF": b"\x01\x01", b"\xee\x00\x07Adobe": b""}  # of which PIL wants more
    broken += [data[:2] + b"\xff" + head + rest + data[2:] for head, rest in short.items()]
    ordinary = [jpeg.ordinary_size(one) is not None for one in broken]
    assert 0 < sum(ordinary) < len(broken)
    found = [looked_at(tmp_path / "a.jpg", one) for one in broken]
    monkeypatch.setattr(jpeg, "ordinary_size", lambda _: None)
    assert found == [looked_at(tmp_path / "a.jpg", one) for one in broken]


def test_a_baseline_jpeg_of_several_scans_is_left_to_pil(tmp_path: Path) -> None:
    """So that they are counted: libjpeg decodes each over the whole image."""
    stream = io.BytesIO()
    quadrants().save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    data[data.index(b"\xff\xda") + 4] = 1
    assert jpeg.is_plain(bytes(data))
    assert jpeg.ordinary_size(bytes(data)) is None


def test_an_ordinary_jpeg_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    quadrants().save(stream, "JPEG")
    data = stream.getvalue()
    at = data.index(b"\xff\xc0") + 5
    large = data[:at] + (12_000).to_bytes(2, "big") * 2 + data[at + 4 :]
    assert jpeg.ordinary_size(large) == (12_000, 12_000)
    monkeypatch.setattr(jpeg, "decoded", lambda _: pytest.fail("decoded"))
    (tmp_path / "a.jpg").write_bytes(large)
    with pytest.raises(ImageError, match="a decompression bomb"):
        read_image_file(tmp_path / "a.jpg")
