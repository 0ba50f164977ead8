"""A JSON file of others, read within limits: how deeply it may nest, and how long one value may be.

The streaming parser keeps the path of every open bracket, so 100 kB of ``[`` take it the square of that, 25 GB; and it
builds an element of the array whole. Both are seen here in the bytes on their way to the parser, block by block.
"""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np

# Annotations nest some ten deep (a scene graph's objects and relationships).
MAX_DEPTH = 64
# The largest elements, an image's region graphs in Visual Genome, have some hundred kB. Built, a byte takes up to 25.
MAX_VALUE_BYTES = 16 * 2**20

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_NO_BRACKET = bytes(sorted(set(range(256)) - set(b"[]{}")))
_STEPS = np.zeros(256, np.int64)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


class JsonLimitError(ValueError):
    """JSON beyond a limit; the message says which."""


class LimitedJson:
    """A binary file for a JSON parser that raises JsonLimitError before the parser has seen what is too much.

    ``depth`` is how many brackets are open around an element: values below it are kept by the parser.
    """

    def __init__(self, file: BinaryIO, depth: int) -> None:
        self._file, self._elements = file, depth
        self._depth = self._length = 0
        self._in_string = self._escaped = False

    def read(self, size: int = -1) -> bytes:
        """The next bytes of the file."""
        block = self._file.read(size)
        outside, ends_a_string = self._outside_of_strings(block)
        depths = self._depth + np.cumsum(_STEPS[np.frombuffer(outside.translate(None, _NO_BRACKET), np.uint8)])
        if int(depths.max(initial=0)) > MAX_DEPTH:
            raise JsonLimitError(f"nested more than {MAX_DEPTH} deep")
        between_elements = int(depths.min(initial=self._depth)) <= self._elements
        ends_a_value = ends_a_string or depths.size > 0 or b"," in outside
        self._length = 0 if between_elements and ends_a_value else self._length + len(block)
        if self._length > MAX_VALUE_BYTES:
            raise JsonLimitError(f"one value of more than {MAX_VALUE_BYTES} bytes")
        self._depth = int(depths[-1]) if depths.size else self._depth
        return block

    def _outside_of_strings(self, block: bytes) -> tuple[bytes, bool]:
        """What of the block stands in no string, and whether a string begins or ends in it."""
        if self._escaped:
            block = block[1:]
        self._escaped = (len(block) - len(block.rstrip(b"\\"))) % 2 == 1
        if b"\\" in block:
            block = _ESCAPE.sub(b"", block)
        parts = block.split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        return outside, len(parts) > 1
