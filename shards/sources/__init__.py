"""The data sets that shards are built from. A new one is a file here and a line in SOURCES."""

from __future__ import annotations

from laconvnet.shards.errors import InputError
from laconvnet.shards.sources.base import Source
from laconvnet.shards.sources.clevr import CLEVR
from laconvnet.shards.sources.clevr_humans import CLEVR_HUMANS
from laconvnet.shards.sources.clevr_ref import ClevrRef
from laconvnet.shards.sources.coco import Coco
from laconvnet.shards.sources.flickr30k import Flickr30k
from laconvnet.shards.sources.grefcoco import GREFCOCO
from laconvnet.shards.sources.refer import REFCOCO, REFCOCO_PLUS, REFCOCOG
from laconvnet.shards.sources.referit import REFERIT
from laconvnet.shards.sources.simrec import SIMREC
from laconvnet.shards.sources.snli_ve import SnliVe
from laconvnet.shards.sources.table.source import TABLE
from laconvnet.shards.sources.visual_genome import VisualGenome
from laconvnet.shards.sources.vqav2 import Vqav2

_ALL: tuple[Source, ...] = (
    REFCOCO,
    REFCOCO_PLUS,
    REFCOCOG,
    GREFCOCO,
    REFERIT,
    VisualGenome(),
    Flickr30k(),
    CLEVR,
    CLEVR_HUMANS,
    ClevrRef(),
    Vqav2(),
    SnliVe(),
    SIMREC,
    TABLE,
    Coco(),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}


def get(name: str) -> Source:
    """The source of that name; raises InputError that lists the known ones."""
    if name not in SOURCES:
        raise InputError(f"source {name!r}: not known; expected one of {', '.join(SOURCES)}")
    return SOURCES[name]
