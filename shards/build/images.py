"""One image file to the bytes a shard stores: decoded once in full, normalised where decoders would disagree.

Bytes pass through only where every decoder shows the same upright 8-bit gray or RGB pixels. The rest is encoded
again, a lossy source as JPEG (quality 95, full chroma), a lossless one as PNG:

* CMYK, palettes, 16 bits, 1 bit, and JPEG flavours outside baseline and progressive YCbCr become 8-bit gray or RGB;
* a JPEG with stray bytes, which libjpeg skips, is encoded as it decodes (DALI refuses some); one that lost data is
  refused;
* transparency is laid on white: decoders that drop alpha show whatever colour hides below it, and white is what the
  annotators saw on a page;
* of several frames (MPO, GIF, WebP, APNG) the first stays.

EXIF orientation: DALI turns by it, PIL does not, so it never enters a shard. Where the annotated size tells the
stored image from the upright one, that size decides. Where it cannot (unknown, square, or turned by 180 degrees)
an image with regions keeps its stored pixels, because the field's tools read COCO-style boxes that way, and one
with questions only is turned upright, because that is how people saw it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from laconvnet.images import (
    FORMATS,
    ImageDepthError,
    ImageLimitError,
    has_too_many_pixels,
    on_white,
    opened,
    read_bytes,
    with_8_bits,
)
from laconvnet.shards.build import jpeg
from laconvnet.shards.build.content import file_content, image_content
from laconvnet.shards.format.pictures import UNKNOWN, Content

EXTENSIONS = ("jpg", "png")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = 1
_UNREADABLE = 0
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason the quarantine table gives.

    ``content`` is what is known of its file.
    """

    def __init__(self, message: str, content: Content = UNKNOWN) -> None:
        super().__init__(message)
        self.content = content


@dataclass(frozen=True, slots=True)
class StoredImage:
    """Bytes ready for a shard, the size in pixels that every decoder will show, and what tells the source's content."""

    data: bytes
    ext: str
    width: int
    height: int
    content: Content


def read_image_file(path: Path, annotated: tuple[int, int] = (0, 0), has_regions: bool = False) -> StoredImage:
    """Read, decode in full and normalise one image file.

    ``annotated`` is the (width, height) that the annotations claim, zeros where unknown. Raises ImageError with
    the reason where the file is absent, cannot be decoded, or is beyond a limit of `laconvnet.images`;
    OSError where it is there and cannot be read: that is no fault of the image.
    """
    try:
        data = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    except ImageLimitError as error:
        raise ImageError(f"refused: {error}") from error
    file = file_content(data)
    try:
        ordinary = _ordinary_jpeg(data, file)
        if ordinary is not None:
            return ordinary
        with opened(data) as image:
            return _normalised(image, data, file, annotated, has_regions)
    except ImageError as error:
        raise ImageError(str(error), file) from error
    except ImageLimitError as error:
        raise ImageError(f"refused: {error}", file) from error
    except ImageDepthError as error:
        raise ImageError(str(error), file) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"no image of a known format ({', '.join(FORMATS)})", file) from error
    # Decoders raise nearly anything on malformed bytes (SyntaxError, struct.error, zlib.error, IndexError, ...);
    # whatever it is, this image is out and the build goes on.
    except Exception as error:
        raise ImageError(f"cannot be decoded: {type(error).__name__}: {error}", file) from error


def content_of(path: Path) -> Content:
    """What tells the content of an image file, as far as it can be read; raises OSError as `read_image_file`."""
    try:
        return read_image_file(path).content
    except ImageError as error:
        return error.content


def _ordinary_jpeg(data: bytes, file: Content) -> StoredImage | None:
    """What `_normalised` makes of an image that PIL need not open, which most are; None of all others.

    Those with a fault are among the others: what is said of them is said in one place.
    """
    size = jpeg.ordinary_size(data)
    if size is None or has_too_many_pixels(*size):
        return None
    shown, _ = _decoded_jpeg(data)
    return StoredImage(data, "jpg", *size, image_content(file, shown)) if shown is not None else None


def _normalised(
    image: Image.Image, data: bytes, file: Content, annotated: tuple[int, int], has_regions: bool
) -> StoredImage:
    is_jpeg = image.format in ("JPEG", "MPO")
    if not is_jpeg:
        image.load()  # before EXIF is read, which for PNG decodes as well, with errors that would pass for EXIF's
    orientation = _orientation(image)
    turn = orientation in _TURNS and _wants_upright(image.size, orientation, annotated, has_regions)
    if is_jpeg:
        shown, fault = _decoded_jpeg(data)
        if fault is not None and "premature end" in fault.lower():
            raise ImageError(f"cannot be decoded: {fault}")
        if shown is not None and image.format == "JPEG" and jpeg.is_plain(data) and not turn:
            kept = data if orientation == _UPRIGHT else jpeg.without_exif(data)
            return StoredImage(kept, "jpg", *image.size, image_content(file, _upright_pixels(shown, orientation)))
        image.load()
    pixels = _flattened(image)
    upright = pixels.transpose(_TURNS[orientation]) if orientation in _TURNS else pixels
    content = image_content(file, np.asarray(upright.convert("RGB")))
    if image.format == "PNG" and orientation == _UPRIGHT and _is_plain_png(image, data):
        return StoredImage(data, "png", *image.size, content)
    if turn:
        pixels = upright
    pixels.info.clear()  # or the encoder writes the old ICC profile and transparency beside the new pixels
    encoded = io.BytesIO()
    if is_jpeg or (image.format == "WEBP" and b"VP8L" not in data[:64]):
        pixels.save(encoded, "JPEG", quality=95, subsampling=0)
        return StoredImage(encoded.getvalue(), "jpg", *pixels.size, content)
    pixels.save(encoded, "PNG")
    return StoredImage(encoded.getvalue(), "png", *pixels.size, content)


def _decoded_jpeg(data: bytes) -> tuple[jpeg.Pixels | None, str | None]:
    """The pixels of a JPEG, or the warning about it."""
    try:
        return jpeg.decoded(data), None
    except ValueError as error:
        return None, str(error)


def _upright_pixels(pixels: jpeg.Pixels, orientation: int) -> jpeg.Pixels:
    return np.asarray(Image.fromarray(pixels).transpose(_TURNS[orientation])) if orientation in _TURNS else pixels


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8; 0 where the EXIF block cannot be read, so that it is removed."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, _UPRIGHT)
    except Exception:  # as above: the EXIF parser raises anything on malformed bytes
        return _UNREADABLE
    return value if value in (_UPRIGHT, *_TURNS) else _UNREADABLE


def _wants_upright(stored: tuple[int, int], orientation: int, annotated: tuple[int, int], has_regions: bool) -> bool:
    upright = stored[::-1] if orientation in _SWAPS_SIDES else stored
    if upright != stored and min(annotated) > 0:
        return annotated == upright
    return not has_regions


def _is_plain_png(image: Image.Image, data: bytes) -> bool:
    bit_depth, colour_type = data[24], data[25]  # of the IHDR chunk, which PNG puts first
    single = getattr(image, "n_frames", 1) == 1
    return single and bit_depth == 8 and colour_type in (0, 2) and "transparency" not in image.info


def _flattened(image: Image.Image) -> Image.Image:
    """8-bit L or RGB pixels, transparency on white."""
    image = with_8_bits(image)
    if image.has_transparency_data:
        return on_white(image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
