"""The input of the builder, made by a source: a record and the image file it describes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from laconvnet.shards.format.record import Record


@dataclass(frozen=True, slots=True)
class RawSample:
    """One image before the build.

    The record's width and height are what the annotations claim, 0 where they claim nothing; the builder puts the
    decoded size there. ``image`` may be missing or broken: the builder quarantines it.
    """

    record: Record
    image: Path
