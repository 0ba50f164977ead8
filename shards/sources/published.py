"""How many entries a data set is published to have, to compare with what was read.

A number stands here where its source can be named. Regions of the REFER family are its refs, questions of SNLI-VE its
pairs. A count of the whole (`IN_ALL`) is compared with the sum over the splits, so that pictures are counted for the
whole only where each is in one split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from laconvnet.shards.format.facts import says_generated
from laconvnet.shards.format.ledger import Ledger, account_of
from laconvnet.shards.sources import SOURCES
from laconvnet.shards.sources.refer import Refer

IN_ALL = "in all"

# By split and kind of entry, as in the ledger.
Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Published:
    """The counts of one partition of a data set, and the paper or page that has them."""

    counts: Counts
    citation: str


_TFDS = "the README of ref_coco in tensorflow/datasets"
_FLICKR30K = "LaConvNet v2, Sec. 5.1; their sum: README of BryanPlummer/flickr30k_entities"


def _refs(**splits: tuple[int, int]) -> Counts:
    """Of each split its refs and images."""
    return {split: {"picture": images, "region": refs} for split, (refs, images) in splits.items()}


def _asked(**splits: tuple[int, int]) -> Counts:
    """Of each split its questions and images."""
    return {split: {"picture": images, "question": questions} for split, (questions, images) in splits.items()}


def _with_expressions(counts: Counts, **splits: int) -> Counts:
    return {split: {**found, "expression": splits[split]} for split, found in counts.items()}


PUBLISHED: dict[tuple[str, str | None], Published] = {
    ("refcoco", "unc"): Published(
        _with_expressions(
            _refs(train=(42_404, 16_994), val=(3_811, 1_500), testA=(1_975, 750), testB=(1_810, 750)),
            train=120_624,
            val=10_834,
            testA=5_657,
            testB=5_095,
        ),
        f"{_TFDS}; expressions: FlagEval's page on RefCOCO (flageval.baai.ac.cn)",
    ),
    ("refcoco", "google"): Published(_refs(train=(40_000, 19_213), val=(5_000, 4_559), test=(5_000, 4_527)), _TFDS),
    ("refcoco+", "unc"): Published(
        _refs(train=(42_278, 16_992), val=(3_805, 1_500), testA=(1_975, 750), testB=(1_798, 750)), _TFDS
    ),
    ("refcocog", "google"): Published(_refs(train=(44_822, 24_698), val=(5_000, 4_650)), _TFDS),
    ("refcocog", "umd"): Published(_refs(train=(42_226, 21_899), val=(2_573, 1_300), test=(5_023, 2_600)), _TFDS),
    ("grefcoco", "unc"): Published({IN_ALL: {"picture": 19_994}}, "LaConvNet v2, Sec. 5.1"),
    ("referit", "berkeley"): Published(
        {IN_ALL: {"picture": 19_894, "region": 96_654, "expression": 130_525}},
        "Kazemzadeh et al. (EMNLP 2014), abstract",
    ),
    ("visual_genome", None): Published(
        {"train": {"picture": 108_077}}, "visualgenome.org, by the data card of ranjaykrishna/visual_genome"
    ),
    ("flickr30k", None): Published(
        {"train": {"picture": 29_783}, "val": {"picture": 1_000}, "test": {"picture": 1_000}}, _FLICKR30K
    ),
    ("clevr", None): Published(
        _asked(train=(699_989, 70_000), val=(149_991, 15_000), test=(149_988, 15_000)),
        "cs.stanford.edu/people/jcjohns/clevr; questions of test: README of necla-ml/SNLI-VE",
    ),
    ("clevr_humans", None): Published(
        {"train": {"question": 17_817}, "val": {"question": 7_202}, "test": {"question": 7_145}},
        "LaConvNet v1, Sec. 4.1",
    ),
    ("vqav2", None): Published(
        _asked(
            train=(443_757, 82_783), val=(214_354, 40_504), test=(447_793, 81_434), **{"test-dev": (107_394, 36_807)}
        ),
        "visualqa.org/download.html; test-dev: data card of HuggingFaceM4/VQAv2",
    ),
    ("snli_ve", None): Published(
        _asked(train=(529_527, 29_783), val=(17_858, 1_000), test=(17_901, 1_000)), "README of necla-ml/SNLI-VE"
    ),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one split (or `IN_ALL`) and kind: so many are published, so many were read."""

    split: str
    kind: str
    published: int
    read: int
    citation: str


def differences(meta: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Where a set has read another number of entries than is published, as the fields of `Difference`.

    ``meta`` are its facts (`shards.format.manifest`). Only the splits that it was built of are compared. None where
    nothing is published of its source and partition, where it has no ledger, or where its images are generated ones.
    """
    options = meta.get("options", {})
    if says_generated(meta):
        return None
    found = _published(str(meta.get("source")), options.get("partition"))
    if found is None or "ledger" not in meta:
        return None
    return [asdict(difference) for difference in _differences(found, meta["ledger"], options.get("split"))]


def _published(source: str, partition: str | None) -> Published | None:
    """None for the partition is the source's own default."""
    origin = SOURCES.get(source)
    if partition is None and isinstance(origin, Refer):
        partition = origin.default_partition
    return PUBLISHED.get((source, partition))


def _differences(found: Published, ledger: Ledger, chosen: list[str] | None) -> Iterator[Difference]:
    for split, kinds in found.counts.items():
        if chosen is not None and split not in chosen:
            continue
        for kind, number in kinds.items():
            there = ledger if split == IN_ALL else [split]
            read = sum(account_of(ledger, one, kind)["read"] for one in there)
            if read != number:
                yield Difference(split, kind, number, read, found.citation)
