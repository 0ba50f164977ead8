"""One raw sample looked at: what of it can be stored, and the rows of the quarantine for the rest.

The writer of shards and `shards check` both ask here, so that the check finds what a build would.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from laconvnet.shards.build.images import ImageError, StoredImage, read_image_file
from laconvnet.shards.format.ledger import picture_rows
from laconvnet.shards.format.pictures import UNKNOWN, Content
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Record
from laconvnet.shards.format.rows import fit_record


@dataclass(frozen=True, slots=True)
class Examined:
    """The record to be stored with its image, None where nothing is; ``rows`` are those of the quarantine table.

    ``content`` is what is known of the image, whether it is stored or not.
    """

    rows: list[dict[str, Any]]
    content: Content = UNKNOWN
    record: Record | None = None
    image: StoredImage | None = None


def examine(sample: RawSample) -> Examined:
    """Read, decode and normalise the image of a sample, and fit its record. Raises OSError as `read_image_file`."""
    claimed = sample.record
    annotated = (claimed.width, claimed.height)
    try:
        image = read_image_file(sample.image, annotated, bool(claimed.regions))
    except ImageError as error:
        return Examined(list(picture_rows(sample, None, "image", str(error))), error.content)
    if min(annotated) > 0 and annotated != (image.width, image.height):
        sizes = f"for {claimed.width}x{claimed.height}, the image is {image.width}x{image.height}"
        rows = picture_rows(sample, None, "size", f"the annotations are {sizes}: boxes would be wrong")
        return Examined(list(rows), image.content)
    return _fitted(sample, image.width, image.height, image)


def examine_annotations(sample: RawSample) -> Examined:
    """As `examine`, as far as the annotations tell: regions are fitted to the size they claim, if they claim one."""
    claimed = sample.record
    if min(claimed.width, claimed.height) > 0:
        return _fitted(sample, claimed.width, claimed.height, None)
    return Examined(list(picture_rows(sample, claimed)), UNKNOWN, claimed)


def _fitted(sample: RawSample, width: int, height: int, image: StoredImage | None) -> Examined:
    record, faults = fit_record(sample.record, width, height, str(sample.image))
    known = dataclasses.replace(sample, faults=(*sample.faults, *faults)) if faults else sample
    rows = list(picture_rows(known, record))
    content = image.content if image else UNKNOWN
    return Examined(rows, content, None if sample.record.splits and not record.splits else record, image)
