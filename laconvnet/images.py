"""Image files of others, opened within limits: what one may cost to decode is known before it is decoded.

A file of kilobytes can ask for gigabytes of pixels, or for minutes of work on them: each scan of a progressive JPEG is
a pass over the whole image and may take thirty bytes. The limits leave room for whatever a camera or an encoder writes.
This module knows numpy, PIL and `laconvnet.files` only.
"""

from __future__ import annotations

import base64
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from laconvnet.files import retried

# Named, because PIL would also try formats that start other programs (EPS) or are seldom fuzzed.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # MPO is opened as a JPEG of several frames

MAX_PIXELS = 2**30 // 12  # 89 megapixels, at which PIL begins to warn of a bomb
MAX_BYTES = 8 * MAX_PIXELS  # four channels of 16 bits, not compressed
# libjpeg's progressive colour images have 10 scans, those of optimisers (mozjpeg) a few more. 100 is as many as cjpeg
# takes from a script of scans and libtiff from a JPEG.
MAX_SCANS = 100
# An image of the largest size in the scans of libjpeg. Two such decodings are a few seconds.
MAX_SCANNED_PIXELS = 10 * MAX_PIXELS

_SOS, _EOI = 0xDA, 0xD9
# Not in entropy-coded data: a stuffed zero, restart markers. TEM has no parameters, as these.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


class ImageLimitError(ValueError):
    """An image that would cost more to decode than any honest one; the message says which limit it passes."""


class ImageDepthError(ValueError):
    """An image whose values do not say which of them are black and white."""


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file. Raises OSError as `files.retried`, and ImageLimitError for more than MAX_BYTES."""
    data = retried(path, lambda: _first_bytes(path, MAX_BYTES + 1))
    if len(data) > MAX_BYTES:
        raise ImageLimitError(f"the file has more than {MAX_BYTES:,} bytes")
    return data


def _first_bytes(path: Path, most: int) -> bytes:
    with path.open("rb") as stream:
        # As many as are asked for are allocated before the first is read.
        return stream.read(min(most, os.fstat(stream.fileno()).st_size + 1))


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is heard of warnings. Around threads that open images, for each puts back what it found in the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """An image of one of FORMATS by its bytes, not yet decoded; PIL's warnings are quiet until it is closed.

    Raises ImageLimitError for one beyond the limits above, and whatever PIL does for malformed bytes.
    """
    with quiet():
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError as error:  # at twice MAX_PIXELS
            raise ImageLimitError(f"a decompression bomb ({error})") from error
        with image:
            _check(image, data)
            yield image


def data_uri(data: bytes, kept: int, largest: int) -> str:
    """The data URI of an image for a page: as it is where it is JPEG or PNG and no side is longer than ``kept`` pixels.

    Else a JPEG with no side longer than ``largest``. Raises as `opened`, also while it decodes.
    """
    with opened(data) as image:
        kind = str(image.format)
        if kind not in ("JPEG", "PNG") or max(image.size) > kept:
            smaller = image.convert("RGB")
            smaller.thumbnail((largest, largest))
            stream = io.BytesIO()
            smaller.save(stream, "JPEG", quality=80)
            kind, data = "JPEG", stream.getvalue()
    return f"data:image/{kind.lower()};base64," + base64.b64encode(data).decode()


def on_white(image: Image.Image) -> Image.Image:
    """The image with what is transparent laid on white."""
    if not image.has_transparency_data:
        return image
    layers = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)


def with_8_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits as one of 8, what is transparent in it white; any other as it is.

    Pillow's own conversion takes all values above 255 for white. Raises ImageDepthError for values of 32 bits.
    """
    if image.mode in ("I", "F"):
        raise ImageDepthError(f"pixel mode {image.mode}: 32-bit values have no 8-bit meaning")
    if not image.mode.startswith("I;16"):
        return image
    values, transparency = np.asarray(image), image.info.get("transparency")
    grey = (values >> 8).astype(np.uint8)
    if isinstance(transparency, int):
        grey[values == transparency] = 255
    return Image.fromarray(grey)


def has_too_many_pixels(width: int, height: int) -> bool:
    """Whether an image of this size is beyond the limit."""
    return width * height > MAX_PIXELS


def _check(image: Image.Image, data: bytes) -> None:
    pixels = image.width * image.height
    if has_too_many_pixels(*image.size):
        raise ImageLimitError(
            f"{image.width}x{image.height} are {pixels:,} pixels, more than {MAX_PIXELS:,}: a decompression bomb"
        )
    if data.startswith(b"\xff\xd8"):
        most = min(MAX_SCANS, MAX_SCANNED_PIXELS // max(pixels, 1))
        if jpeg_scans(data, most) > most:
            raise ImageLimitError(
                f"the JPEG has more than {most} scans, the most for {image.width}x{image.height} pixels; an encoder "
                "writes some 10"
            )


def jpeg_scans(data: bytes, most: int = MAX_SCANS) -> int:
    """The scans of a JPEG, or of the first of several, by its markers (ITU-T T.81 Annex B); at ``most`` + 1 it stops.

    Bytes between segments are passed over as libjpeg does.
    """
    count, at = 0, 2
    while count <= most and (found := _MARKER.search(data, at)):
        marker, at = data[found.end() - 1], found.end()
        if marker == _EOI:
            break
        count += marker == _SOS
        at += max(int.from_bytes(data[at : at + 2], "big"), 2)
    return count
