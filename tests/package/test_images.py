"""Limits on what an image of others may cost: counted before anything is decoded."""

from __future__ import annotations

import io
import time
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from laconvnet import images
from laconvnet.images import MAX_PIXELS, MAX_SCANNED_PIXELS, MAX_SCANS, ImageLimitError, jpeg_scans, opened


def encoded(size: tuple[int, int] = (40, 20), kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(stream, kind, **options)
    return stream.getvalue()


def scans(count: int, size: tuple[int, int] = (40, 20)) -> bytes:
    """A progressive JPEG of so many scans: its last one again and again."""
    data = encoded(size, progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - jpeg_scans(data)) + b"\xff\xd9"


def test_scans_are_counted_as_a_decoder_finds_them() -> None:
    assert jpeg_scans(encoded()) == 1
    assert jpeg_scans(encoded(progressive=True)) == 10  # those of libjpeg, on which the limits rest
    assert jpeg_scans(scans(57)) == 57
    decoy = b"\xff\xfe\x00\x08" + b"\xff\xda" * 3  # a comment that holds the marker
    assert jpeg_scans(b"\xff\xd8" + decoy + encoded(restart_marker_blocks=1)[2:]) == 1
    two = encoded() + encoded()  # what follows the end belongs to another image
    assert jpeg_scans(two) == 1
    stray = encoded().replace(b"\xff\xdb", b"stray\xff\xff\xdb", 1)
    assert jpeg_scans(stray) == 1


def test_a_file_takes_the_memory_of_its_bytes_while_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(encoded())
    tracemalloc.start()
    try:
        assert images.read_bytes(file) == encoded()
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_as_many_scans_as_any_encoder_writes_pass_and_more_do_not() -> None:
    with opened(scans(MAX_SCANS)) as image:
        assert image.size == (40, 20)
    with pytest.raises(ImageLimitError, match=f"more than {MAX_SCANS} scans"), opened(scans(MAX_SCANS + 1)):
        pass


def test_a_large_image_may_have_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_SCANNED_PIXELS", 800 * 20)
    with opened(scans(20)):
        pass
    with pytest.raises(ImageLimitError, match="more than 20 scans"), opened(scans(21)):
        pass
    assert MAX_SCANNED_PIXELS // MAX_PIXELS >= 10, "the largest image may be a progressive one of libjpeg's"


@pytest.mark.parametrize("run", [b"\xff", b"\xff\xd0", b"\xff\x00", b"\x00"])
def test_counting_takes_the_time_of_reading(run: bytes) -> None:
    def seconds(length: int) -> float:
        data = b"\xff\xd8" + run * (length // len(run))
        started = time.perf_counter()
        assert jpeg_scans(data) == 0
        return time.perf_counter() - started

    short = min(seconds(1 << 19) for _ in range(3))
    assert seconds(1 << 22) < 40 * short + 0.05, "eight times as much takes eight times as long, not 64 times"


def test_pixels_are_counted_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 799)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        with pytest.raises(ImageLimitError, match=r"40x20 .* decompression bomb"), opened(encoded(kind=kind)):
            pass


def test_so_is_what_pil_refuses_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 399)
    with pytest.raises(ImageLimitError, match="decompression bomb"), opened(encoded()):
        pass


def test_formats_that_start_programs_are_not_tried() -> None:
    with pytest.raises(UnidentifiedImageError), opened(encoded(kind="EPS")):
        pass
