"""A JPEG file by its bytes: whether every decoder agrees on them, whether they are whole, and the removal of EXIF.

Layout after ITU-T T.81 Annex B; the colour rules are those of libjpeg (``default_decompress_parms``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_SOI = b"\xff\xd8"
_EOI = b"\xff\xd9"
_SOS, _APP0, _APP1, _APP14 = 0xDA, 0xE0, 0xE1, 0xEE
_DHT, _DQT, _DRI, _COM = 0xC4, 0xDB, 0xDD, 0xFE
_BASELINE, _PROGRESSIVE = 0xC0, 0xC2
# The heads of most files hold nothing else, and PIL reads the same of these segments as libjpeg.
_ORDINARY = frozenset((_BASELINE, _DHT, _DQT, _DRI, _COM, _APP0, _APP14, _SOS))
_APP_BYTES = 12  # behind the length, of an Adobe segment; JFIF's has 14. PIL refuses shorter ones, libjpeg does not
_ANY_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # DHT, JPG and DAC are no frame headers


class Segment(NamedTuple):
    """One marker segment; ``data[start:end]`` is all of it, marker and length included."""

    marker: int
    start: int
    end: int


def segments(data: bytes) -> list[Segment] | None:
    """The segments up to and with start-of-scan; None where something else than segments stands between them."""
    if not data.startswith(_SOI):
        return None
    found: list[Segment] = []
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        start = at
        while at + 4 <= len(data) and data[at + 1] == 0xFF:  # fill bytes (B.1.1.2)
            at += 1
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append(Segment(data[at + 1], start, end))
        if data[at + 1] == _SOS:
            return found
        at = end
    return None


def is_plain(data: bytes) -> bool:
    """Whether every decoder agrees on these bytes: baseline or progressive, 8 bits, gray or YCbCr, with its end."""
    found = segments(data)
    return found is not None and _plain_frame(data, found) is not None


def ordinary_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a plain JPEG of which the decoder tells as much as PIL; None of any other.

    It is baseline, and in its head is neither EXIF nor another frame, nor anything else that PIL looks at and libjpeg
    does not. All components are in its first scan: libjpeg refuses a second one, so that it decodes in one pass.
    """
    found = segments(data)
    frame = None if found is None else _plain_frame(data, found)
    if found is None or frame is None or not all(_is_ordinary(data, part) for part in found):
        return None
    if _body(data, found[-1])[:1] != frame[5:6]:
        return None
    return int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")


def _is_ordinary(data: bytes, part: Segment) -> bool:
    is_short = part.marker in (_APP0, _APP14) and len(_body(data, part)) < _APP_BYTES
    return part.marker in _ORDINARY and not is_short


def _body(data: bytes, part: Segment) -> bytes:
    """What a segment holds behind its length."""
    return data[part.start : part.end].lstrip(b"\xff")[3:]


def _plain_frame(data: bytes, found: list[Segment]) -> bytes | None:
    """The body of the frame header of a plain JPEG; None of any other."""
    if data.rfind(_EOI, found[-1].end) < 0:  # from behind: most files end with it
        return None
    bodies = {part.marker: _body(data, part) for part in found}
    frames = [part.marker for part in found if part.marker in _ANY_SOF]
    if len(frames) != 1 or frames[0] not in (_BASELINE, _PROGRESSIVE):
        return None
    frame = bodies[frames[0]]
    if len(frame) < 6 or frame[0] != 8 or len(frame) < 6 + 3 * frame[5]:
        return None
    return frame if frame[5] == 1 or (frame[5] == 3 and _is_ycbcr(frame, bodies)) else None


def _is_ycbcr(frame: bytes, bodies: dict[int, bytes]) -> bool:
    adobe = bodies.get(_APP14, b"")
    if adobe.startswith(b"Adobe") and len(adobe) >= 12:
        return adobe[11] == 1  # 0 would be RGB
    return bodies.get(_APP0, b"").startswith(b"JFIF") or (frame[6], frame[9], frame[12]) == (1, 2, 3)


def decoded(data: bytes) -> Pixels:
    """The RGB pixels (H, W, 3) of these bytes, as PIL decodes them.

    Raises ValueError with the warning of libjpeg, if there is one; PIL keeps such warnings quiet: a stream that lost
    its end or a part in the middle decodes to a half gray image without an error elsewhere.
    """
    pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    return pixels


def fault(data: bytes) -> str | None:
    """The warning of `decoded` about these bytes, if there is one."""
    try:
        # Warnings come from the entropy decoder, which runs over all of it; gray spares the work on colour.
        simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)
    except ValueError as error:
        return str(error)
    return None


def without_exif(data: bytes) -> bytes:
    """The same image without its APP1 segments (EXIF, XMP): both can hold an orientation. No pixel is touched."""
    found = segments(data)
    assert found is not None, "asked only of files that is_plain() accepted"
    kept = [data[part.start : part.end] for part in found if part.marker != _APP1]
    return _SOI + b"".join(kept) + data[found[-1].end :]
