"""Small built sets for the pipeline: the generator's pictures through the road that real data take."""

from __future__ import annotations

from pathlib import Path

import pytest

PICTURES, SIZE = 40, 64


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of built sets by source, and "merged": refcoco and half of visual_genome for pretraining."""
    from shards.build import build
    from shards.pretrain import pretrain_set
    from shards.sources import get
    from shards.synthetic import generate

    place = tmp_path_factory.mktemp("sets")
    generate(place / "raw", pictures=PICTURES, size=SIZE, progress=False)
    roots = dict.fromkeys(("refcoco", "refcoco+", "refcocog"), "refer")
    roots |= {"clevr": "clevr", "visual_genome": "visual_genome"}
    folders = {name: place / name for name in roots}
    for name, root in roots.items():
        source = get(name)
        samples = source.samples(place / "raw" / root, images=None, splits=None, partition=None)
        # Shards of some twenty pictures: a set has several.
        facts = {"source": name, "licence": source.licence, "options": {}}
        build(samples, folders[name], **facts, shard_bytes=16_000, progress=False)
    folders["merged"] = place / "merged"
    inputs = [(folders["refcoco"], 1.0), (folders["visual_genome"], 0.5)]
    pretrain_set(inputs, [folders["refcoco"]], folders["merged"])
    return folders
