"""Shards of real images, read back by those whose format they are: tar, webdataset, DALI."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import webdataset

from laconvnet.shards.build.builder import build
from laconvnet.shards.format.raw import RawSample
from laconvnet.shards.format.record import Record
from tests.samples import SAMPLES, needs


@needs(SAMPLES)
def test_real_images_are_read_back_by_tarfile_webdataset_and_dali(tmp_path: Path) -> None:
    fn = pytest.importorskip("nvidia.dali.fn", reason="DALI is not installed")
    pipelines = pytest.importorskip("nvidia.dali.pipeline", reason="DALI is not installed")
    from wds2idx import IndexCreator

    pictures = [*sorted((SAMPLES / "coco").glob("*.jpg")), *sorted((SAMPLES / "images").iterdir())]
    samples = [RawSample(Record("real", path.name, path.name, 0, 0, "mixed"), path) for path in pictures]
    manifest = build(
        samples, tmp_path / "out", source="real", licence="mixed", options={}, shard_bytes=400_000, progress=False
    )
    keys = manifest.samples["key"].to_pylist()
    assert len(keys) == len(pictures) - 4
    assert set(pq.read_table(tmp_path / "out" / "quarantine.parquet")["key"].to_pylist()) == {
        f"real-{name}_{ext}"
        for name, ext in [
            ("broken", "png"),
            ("broken_data_stream", "png"),
            ("truncated_image", "png"),
            ("truncated_jpeg", "jpg"),
        ]
    }

    members = []
    for path in manifest.shard_paths:
        with tarfile.open(path) as tar:
            members += [(member.name, member.mtime, member.uid, member.mode) for member in tar]
        with IndexCreator(path, tmp_path / "theirs.idx", verbose=False) as theirs:
            theirs.create_index()
        assert (tmp_path / "theirs.idx").read_bytes() == path.with_suffix(".idx").read_bytes()
    ext = manifest.samples["image_ext"].to_pylist()
    names = [name for key, image in zip(keys, ext, strict=True) for name in (f"{key}.{image}", f"{key}.json")]
    assert members == [(name, 0, 0, 0o644) for name in names]

    paths = [str(path) for path in manifest.shard_paths]
    read = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb"))
    assert [sample["__key__"] for sample in read] == keys
    assert [sample["json"]["width"] for sample in read] == manifest.samples["width"].to_pylist()

    # device_id None: no driver is needed
    pipeline: Any = pipelines.Pipeline(batch_size=len(keys), num_threads=1, device_id=None)
    with pipeline:
        outputs: Any = fn.readers.webdataset(
            paths=paths,
            index_paths=[path.replace(".tar", ".idx") for path in paths],
            ext=["jpg;png", "json"],
            missing_component_behavior="error",
        )
        pipeline.set_outputs(fn.decoders.image(outputs[0]), outputs[1])
    images, records = pipeline.run()
    shapes = [tuple(images.at(row).shape) for row in range(len(keys))]
    sizes = zip(manifest.samples["height"].to_pylist(), manifest.samples["width"].to_pylist(), strict=True)
    assert shapes == [(height, width, 3) for height, width in sizes]
    assert [records.at(row).tobytes() for row in range(len(keys))] == [
        manifest.read_member(row, "json") for row in range(len(keys))
    ]
